"""HTTP itself: the only file that knows httpx. It is loaded with the first client."""

from __future__ import annotations

import logging
import time
from typing import Any, AsyncGenerator, Generator

import httpx

from ai_spine._call import Answer, Fault, Outcome
from ai_spine._plans import Send
from ai_spine._settings import Settings
from ai_spine._version import __version__
from ai_spine.exceptions import APIError, ValidationError

ANSWER_MAX_BYTES = 32 * 1024 * 1024
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_log = logging.getLogger("ai_spine")


class Wire:
    """The connections of a client to its server. Threads may share it."""

    def __init__(
        self, settings: Settings, transport: httpx.BaseTransport | None
    ) -> None:
        self._settings = settings
        self._client = httpx.Client(transport=transport, **_options(settings))

    def close(self) -> None:
        self._client.close()

    def exchange(self, send: Send) -> Outcome:
        """One attempt: send, and read the answer."""
        body = _Body(send)
        try:
            with self._client.stream(**_request(send)) as response:
                outcome: Outcome = self._read(response, body)
        except httpx.RequestError as error:
            outcome = _fault(error)
        return body.told(outcome, self._settings)

    def stream(self, send: Send) -> Generator[bytes | Outcome, None, None]:
        """The pieces of a stream of events; an outcome last, unless it just ends."""
        body = _Body(send)
        try:
            with self._client.stream(**_request(send)) as response:
                if _is_stream(response):
                    yield from response.iter_bytes()
                    return
                outcome: Outcome = self._read(response, body)
        except httpx.RequestError as error:
            outcome = _fault(error)
        yield body.told(outcome, self._settings)

    def _read(self, response: httpx.Response, body: _Body) -> Answer:
        body.check(response)
        for piece in response.iter_bytes():
            body.take(piece)
        return body.answer(response)


class AsyncWire:
    """The same for a client that is awaited."""

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(transport=transport, **_options(settings))

    async def close(self) -> None:
        await self._client.aclose()

    async def exchange(self, send: Send) -> Outcome:
        """One attempt: send, and read the answer."""
        body = _Body(send)
        try:
            async with self._client.stream(**_request(send)) as response:
                outcome: Outcome = await self._read(response, body)
        except httpx.RequestError as error:
            outcome = _fault(error)
        return body.told(outcome, self._settings)

    async def stream(self, send: Send) -> AsyncGenerator[bytes | Outcome, None]:
        """The pieces of a stream of events; an outcome last, unless it just ends."""
        body = _Body(send)
        try:
            async with self._client.stream(**_request(send)) as response:
                if _is_stream(response):
                    async for piece in response.aiter_bytes():
                        yield piece
                    return
                outcome: Outcome = await self._read(response, body)
        except httpx.RequestError as error:
            outcome = _fault(error)
        yield body.told(outcome, self._settings)

    async def _read(self, response: httpx.Response, body: _Body) -> Answer:
        body.check(response)
        async for piece in response.aiter_bytes():
            body.take(piece)
        return body.answer(response)


class _Body:
    """The body of an answer, within a size and a time."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._began_at = time.monotonic()
        self._pieces: list[bytes] = []
        self._size = 0

    def check(self, response: httpx.Response) -> None:
        """Refuse what says that it is too large."""
        said = response.headers.get("content-length", "")
        if said.isdigit() and int(said) > ANSWER_MAX_BYTES:
            raise _too_large()

    def take(self, piece: bytes) -> None:
        self._size += len(piece)
        self._pieces.append(piece)
        if self._size > ANSWER_MAX_BYTES:
            raise _too_large()
        if time.monotonic() - self._began_at > self._send.timeout_s:
            raise httpx.ReadTimeout("the answer comes too slowly")

    def answer(self, response: httpx.Response) -> Answer:
        content = b"".join(self._pieces)
        return Answer(response.status_code, response.headers, content)

    def told(self, outcome: Outcome, settings: Settings) -> Outcome:
        """Log the attempt: no header, no query, no body, and so no key."""
        if settings.debug:
            call = self._send.call
            said = outcome.status if isinstance(outcome, Answer) else outcome.text
            took_ms = (time.monotonic() - self._began_at) * 1000
            _log.debug("%s %s: %s, %.0f ms", call.method, call.path, said, took_ms)
        return outcome


def _too_large() -> APIError:
    return APIError(f"The answer is larger than {ANSWER_MAX_BYTES} bytes.")


def _options(settings: Settings) -> dict[str, Any]:
    headers = {
        "Accept": "application/json",
        # So that nothing small becomes large here.
        "Accept-Encoding": "identity",
        "User-Agent": f"ai-spine-sdk-python/{__version__}",
    }
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    try:
        base_url = httpx.URL(settings.base_url)
    except httpx.InvalidURL as error:
        raise ValidationError(f"base_url is no address: {error}.") from None
    # A key goes to the server that it was given for, and to no other.
    return {"base_url": base_url, "headers": headers, "follow_redirects": False}


def _request(send: Send) -> dict[str, Any]:
    call = send.call
    headers = dict(call.headers)
    if call.content is not None:
        headers["Content-Type"] = "application/json"
    return {
        "method": call.method,
        "url": call.path,
        "params": call.params or None,
        "content": call.content,
        "headers": headers,
        "timeout": httpx.Timeout(send.timeout_s, read=send.silence_s or send.timeout_s),
    }


def _is_stream(response: httpx.Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return response.status_code == 200 and kind.startswith("text/event-stream")


def _fault(error: httpx.RequestError) -> Fault:
    said = str(error) or type(error).__name__
    return Fault(
        said.rstrip("."),
        is_sent=not isinstance(error, _NOT_SENT),
        is_late=isinstance(error, httpx.TimeoutException),
    )
