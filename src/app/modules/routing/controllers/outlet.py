"""The client's end of a stream: its head, its events, and a sign of life in long silences."""

import asyncio
from types import TracebackType
from typing import Any, Final

import msgspec
from litestar.types import Send

from app.kernel import problems
from app.modules.billing.api import Remaining
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.events import event
from app.modules.routing.domain.streams import KEEP_ALIVE, error_event
from app.modules.routing.service.gateway import Served

STREAM_HEADERS: Final = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"


# Writes a UUID in a twentieth of the time that str() takes, in quotes.
_encode: Final = msgspec.json.Encoder().encode


class Outlet:
    """Sends a stream. A sign of life begins the answer, so that what fails after it is an event.

    Its timer ends with the ``with`` block.
    """

    __slots__ = (
        "_handle",
        "_loop",
        "_send",
        "_sent_s",
        "_sign",
        "_silence_s",
        "_surface",
        "has_begun",
    )

    def __init__(self, send: Send, surface: Surface, silence_s: float) -> None:
        self._send = send
        self._surface = surface
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._sent_s = self._loop.time()
        self._sign: asyncio.Task[None] | None = None
        self.has_begun = False

    def __enter__(self) -> "Outlet":
        self._handle = self._loop.call_later(self._silence_s, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._handle.cancel()
        if self._sign is not None:
            self._sign.cancel()

    async def open(self, served: Served) -> None:
        """Send an answer: its head unless it has begun, then what there is of it."""
        reply = served.reply
        await self._settle_sign()
        if not self.has_begun:
            self.has_begun = True
            await self._send(head_of(served, served.call.overhead_s))
        elif reply.pieces is None and reply.content_type != EVENT_STREAM.decode():
            await self._say(event(reply.body, "error" if self._surface == "messages" else ""))
            return
        if reply.pieces is None:
            await self._say(reply.body)
            return
        send, time = self._send, self._loop.time
        try:
            async for piece in reply.pieces:
                if not piece:
                    continue
                if self._sign is not None:
                    await self._settle_sign()
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._sent_s = time()
        finally:
            await reply.pieces.aclose()  # type: ignore[attr-defined]  # a generator's, all of them

    async def refuse(self, error: Exception) -> None:
        """End an answer that has begun with what is wrong."""
        problem = problems.of(error)
        told = error_event(self._surface, problem.detail, problem.code, problem.request_id)
        await self._say(told)

    async def end(self) -> None:
        await self._settle_sign()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say(self, piece: bytes) -> None:
        if self._sign is not None:
            await self._settle_sign()
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._sent_s = self._loop.time()

    def _look(self) -> None:
        """Give a sign of life if the silence is long enough, and look again in time."""
        left_s = self._sent_s + self._silence_s - self._loop.time()
        if left_s <= 0 and self._sign is None:
            self._sign = self._loop.create_task(self._live())
            left_s = self._silence_s
        self._handle = self._loop.call_later(max(left_s, 0.001), self._look)

    async def _live(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            headers = [(b"content-type", EVENT_STREAM), *STREAM_HEADERS]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        self._sent_s = self._loop.time()
        self._sign = None

    async def _settle_sign(self) -> None:
        """Let a sign that is on its way go out whole."""
        if self._sign is not None:
            await asyncio.wait([self._sign])


def head_of(served: Served, overhead_s: float) -> Any:
    """The message that begins an answer."""
    reply = served.reply
    headers = [
        (b"content-type", reply.content_type.encode("latin-1")),
        (b"x-call-id", _encode(served.call.id)[1:-1]),
        (b"x-cache", served.cache.encode()),
        (b"x-overhead-ms", b"%d.%03d" % divmod(int(overhead_s * 1e6), 1000)),
    ]
    if reply.pieces is None:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    else:
        headers += STREAM_HEADERS
    if reply.retry_after:
        headers.append((b"retry-after", reply.retry_after.encode("latin-1")))
    headers += reply.headers
    if served.remaining is not None:
        headers += _limits(served.remaining)
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


def _limits(left: Remaining) -> list[tuple[bytes, bytes]]:
    """What is left of the caller's limits, in OpenAI's headers."""
    headers = []
    if left.limit_requests is not None:
        headers += [
            (b"x-ratelimit-limit-requests", b"%d" % left.limit_requests),
            (b"x-ratelimit-remaining-requests", b"%d" % (left.remaining_requests or 0)),
            (b"x-ratelimit-reset-requests", b"%dms" % (left.reset_requests_s * 1000)),
        ]
    if left.limit_tokens is not None:
        headers += [
            (b"x-ratelimit-limit-tokens", b"%d" % left.limit_tokens),
            (b"x-ratelimit-remaining-tokens", b"%d" % (left.remaining_tokens or 0)),
            (b"x-ratelimit-reset-tokens", b"%dms" % (left.reset_tokens_s * 1000)),
        ]
    return headers
