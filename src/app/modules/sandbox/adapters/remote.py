"""The sandbox of a running server, over HTTP, as ``insula sandbox run`` asks it."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from app.kernel.errors import BadUpstream, Invalid, Unauthorized

CALL_S: Final = 60.0
# The server says something at least every 15 seconds while it lets a stream stand.
SILENCE_S: Final = 60.0
# Between one attempt and the next; a connection that brings an event begins anew.
PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
READ_BYTES: Final = 64 * 1024
# An event can be a whole result with all that was printed.
EVENT_LIMIT_BYTES: Final = 128 * 1024 * 1024
ANSWER_LIMIT_BYTES: Final = 32 * 1024 * 1024
# What was printed after the log's last word comes at the end: one event for each stream.
UNNUMBERED_LIMIT: Final = 16
SHOWN_DETAIL_CHARS: Final = 2000
# A server that is being started again, or a proxy before one.
AWAY: Final = frozenset({502, 503, 504})
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
LOST: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
# Errors of a connection that there was: somebody is there, and may have heard.
HEARD: Final = (aiohttp.ServerDisconnectedError, ConnectionResetError)


class ServerUnreachable(BadUpstream):
    """The server does not answer, or is no Insula."""

    title = "Server unreachable"


class KeyRefused(Unauthorized):
    """The server wants a key, and another one than was given."""

    title = "Key refused"


class RequestRefused(Invalid):
    """The server says why it does not do what it was asked, with this HTTP status."""

    title = "Request refused"

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class ServerEvent(msgspec.Struct, frozen=True):
    """One server-sent event. What has no ``id`` comes again after a lost connection."""

    name: str
    data: bytes
    id: str = ""


class _Created(msgspec.Struct, frozen=True):
    execution_id: str


class _Problem(msgspec.Struct, frozen=True):
    detail: str


class EventReader:
    """Finds server-sent events in a stream of bytes that comes in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that ``data`` completes; ``ValueError`` where one is none, or too large."""
        self._buffer += data
        found: list[ServerEvent] = []
        begin = 0
        while (end := self._buffer.find(b"\n", max(begin, self._searched))) >= 0:
            line = self._buffer[begin:end].decode().removesuffix("\r")
            begin = end + 1
            if line:
                self._note(line)
            elif self._fields:
                found.append(self._event())
        del self._buffer[:begin]
        self._searched = len(self._buffer)
        if self._searched > EVENT_LIMIT_BYTES:
            raise ValueError("an event is too large")
        return found

    def _note(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and name in self._fields:
            value = f"{self._fields[name]}\n{value}"
        if name in {"id", "event", "data"}:
            self._fields[name] = value

    def _event(self) -> ServerEvent:
        fields, self._fields = self._fields, {}
        data = fields.get("data", "").encode()
        return ServerEvent(fields.get("event", "message"), data, fields.get("id", ""))


class RemoteSandbox:
    """The server at ``url``, whose sandbox lies under ``prefix``. Without a ``key`` nobody asks.

    Every verb waits for a server that has answered before; ``ServerUnreachable`` when that was not
    long enough, ``KeyRefused`` or ``RequestRefused`` when it says so.
    """

    def __init__(
        self, url: str, key: str, prefix: str, *, pauses_s: tuple[float, ...] = PAUSES_S
    ) -> None:
        self._pauses_s = pauses_s
        self.url = url.rstrip("/")
        self._place = self.url + prefix.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._opened: aiohttp.ClientSession | None = None
        self._has_answered = False

    async def execute(self, order: Mapping[str, Any]) -> str:
        """Start a script, once however often it has to be asked for; the id of its execution."""
        once = {"idempotency-key": secrets.token_hex(16)}
        body = await self._call("POST", "/execute", order, headers=once)
        try:
            return msgspec.json.decode(body, type=_Created).execution_id
        except msgspec.DecodeError:
            raise self.stranger() from None

    async def events(self, execution_id: str) -> AsyncGenerator[ServerEvent, None]:
        """Every event once, over as many connections as it takes; the last is the ``result``."""
        path = f"/executions/{_segment(execution_id)}/events"
        last_id, misses = "", 0
        while True:
            lost = None
            try:
                async with aclosing(self._stream(path, last_id)) as events:
                    async for event in events:
                        last_id, misses = event.id or last_id, 0
                        yield event
                        if event.name == "result":
                            return
            except LOST as error:
                lost = error
            await self._pause(misses, lost)
            misses += 1

    async def respond(self, execution_id: str, request_id: str | None, text: str) -> bool:
        """Answer what a script asks; false if it does not wait for this any more."""
        body = {"response": text, "request_id": request_id}
        try:
            await self._call("POST", f"/executions/{_segment(execution_id)}/respond", body)
        except RequestRefused as refused:
            if refused.status != 409:
                raise
            return False
        return True

    async def cancel(self, execution_id: str) -> None:
        await self._call("POST", f"/executions/{_segment(execution_id)}/cancel")

    async def artifact(self, execution_id: str, name: str, size_bytes: int) -> bytes:
        """A file of this size that a script has saved."""
        path = f"/executions/{_segment(execution_id)}/artifacts/{_segment(name)}"
        data = await self._call("GET", path, limit_bytes=size_bytes + 1)
        if len(data) != size_bytes:
            raise self.stranger()
        return data

    def stranger(self) -> ServerUnreachable:
        return ServerUnreachable(f"What answers at {self.url} is no sandbox of Insula.")

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        limit_bytes: int = ANSWER_LIMIT_BYTES,
    ) -> bytes:
        misses = 0
        while True:
            try:
                async with self._session().request(
                    method, self._place + path, json=body, headers=headers, allow_redirects=False
                ) as response:
                    self._has_answered = True
                    answer = await _body(response, limit_bytes)
                    if response.status not in {200, 202}:
                        raise self._refused(response.status, answer)
                    return answer
            except LOST as error:
                await self._pause(misses, error)
            misses += 1

    async def _stream(self, path: str, last_id: str) -> AsyncGenerator[ServerEvent, None]:
        headers = {"last-event-id": last_id} if last_id else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_S, sock_read=SILENCE_S)
        async with self._session().get(
            self._place + path, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status in AWAY:
                raise aiohttp.ClientConnectionError(f"status {response.status}")
            if response.status != 200:
                raise self._refused(response.status, await _body(response, ANSWER_LIMIT_BYTES))
            self._has_answered = True
            reader = EventReader()
            unnumbered: list[ServerEvent] = []
            async for data in response.content.iter_chunked(READ_BYTES):
                try:
                    found = reader.feed(data)
                except ValueError:
                    raise self.stranger() from None
                for event in found:
                    for ready in self._in_order(event, unnumbered):
                        yield ready

    def _in_order(self, event: ServerEvent, unnumbered: list[ServerEvent]) -> list[ServerEvent]:
        """What may be shown now: what has no number, only when nothing can be lost any more."""
        if event.id:
            return [event]
        unnumbered.append(event)
        if len(unnumbered) > UNNUMBERED_LIMIT:
            raise self.stranger()
        return unnumbered if event.name == "result" else []

    async def _pause(self, misses: int, error: Exception | None) -> None:
        """Wait before it is tried again, unless it was tried often enough."""
        is_there = self._has_answered or isinstance(error, HEARD)
        if not is_there or misses >= len(self._pauses_s):
            raise self._silent(error) from error
        await asyncio.sleep(self._pauses_s[misses])

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=CALL_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._opened

    def _refused(self, status: int, body: bytes) -> KeyRefused | RequestRefused:
        if status == 401:
            return KeyRefused(
                f"{self.url} does not take this key; give one with --key, INSULA_API_KEY or "
                "APP_BOOTSTRAP_KEY."
            )
        try:
            detail = msgspec.json.decode(body, type=_Problem).detail[:SHOWN_DETAIL_CHARS]
        except (msgspec.DecodeError, UnicodeDecodeError):
            detail = f"{self.url} answered {status}."
        return RequestRefused(detail, status)

    def _silent(self, error: Exception | None) -> ServerUnreachable:
        kind = type(error).__name__ if error else "the connection ends too early"
        return ServerUnreachable(f"{self.url} does not answer ({kind}).")


def _segment(name: str) -> str:
    return quote(name, safe="")


async def _body(response: aiohttp.ClientResponse, limit_bytes: int = ANSWER_LIMIT_BYTES) -> bytes:
    """Read an answer, and not more of it than that."""
    try:
        return await response.content.readexactly(limit_bytes)
    except asyncio.IncompleteReadError as ended:
        return ended.partial
