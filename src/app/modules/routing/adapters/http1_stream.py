"""The body of an event stream, and when whoever reads it is woken."""

import asyncio
import time
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from app.kernel.errors import AppError

# What a stream holds for a slow reader before the server is made to wait.
BACKLOG_BYTES: Final = 262_144
GATHER_S: Final = 0.001


class Tap(Protocol):
    """Where a stream comes from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def break_off(self) -> None: ...


class Bell:
    """Wakes the readers of many streams together, once a millisecond at most.

    A reader that is woken hands its event to the server's thread, and that thread has to be woken
    too. What comes after a quiet millisecond is handed on at once; what comes right behind it, on
    this stream or another, shares the next round. Without this, sixty-four streams with an event
    every 10 ms take a quarter more CPU (docs/benchmarks/gateway.md has the load).
    """

    __slots__ = ("_called", "_is_set", "_monotonic", "_rung_s")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._called: list[Stream] = []
        self._rung_s = -inf
        self._is_set = False

    def call(self, stream: "Stream") -> None:
        """Wake the reader of this stream, now or within the millisecond."""
        if self._is_set:
            self._called.append(stream)
            return
        now_s = self._monotonic()
        if now_s - self._rung_s >= GATHER_S:
            self._rung_s = now_s
            stream.wake()
            return
        self._called.append(stream)
        self._is_set = True
        asyncio.get_running_loop().call_later(GATHER_S, self._ring)

    def _ring(self) -> None:
        self._is_set = False
        self._rung_s = self._monotonic()
        called, self._called = self._called, []
        for stream in called:
            stream.wake()


class Stream:
    """What has come of an event stream and was not read yet."""

    __slots__ = (
        "_bell",
        "_fault",
        "_is_called",
        "_loop",
        "_parts",
        "_size",
        "_tap",
        "_waiting",
        "is_full",
    )

    def __init__(self, tap: Tap, bell: Bell) -> None:
        self.is_full = False
        self._loop = asyncio.get_running_loop()
        self._tap: Tap | None = tap
        self._bell = bell
        self._fault: AppError | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._waiting: asyncio.Future[None] | None = None
        self._is_called = False

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        """Return all that has come since the last time, in one piece."""
        while not self._parts:
            if self._fault is not None:
                raise self._fault
            if self._tap is None:
                raise StopAsyncIteration
            self._waiting = self._loop.create_future()
            await self._waiting
        parts = self._parts
        chunk = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._size = 0
        if self.is_full and self._tap is not None:
            self.is_full = False
            self._tap.resume()
        return chunk

    async def close(self) -> None:
        """Cut the connection, unless the stream has come to its end."""
        if self._tap is not None:
            self._tap.break_off()

    def feed(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._waiting is not None and not self._is_called:
            self._is_called = True
            self._bell.call(self)
        if self._size > BACKLOG_BYTES and not self.is_full and self._tap is not None:
            self.is_full = True
            self._tap.pause()

    def end(self) -> None:
        self._tap = None
        self.wake()

    def fail(self, fault: AppError) -> None:
        self._fault = fault
        self.end()

    def wake(self) -> None:
        self._is_called = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
