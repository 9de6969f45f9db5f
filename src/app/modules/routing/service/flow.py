"""A stream on its way from its upstream to the caller."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from app.kernel.errors import AppError
from app.modules.routing.service.dispatch import Opened


class Ending(Protocol):
    """The call behind a stream: every way that a stream ends is one of these."""

    async def end(self, opened: Opened) -> None:
        """The stream is complete."""
        ...

    def broken_off(self, opened: Opened, error: AppError | None) -> list[bytes]:
        """The stream has ended without its end; the events that say so."""
        ...

    def leave(self) -> None:
        """The caller has gone."""
        ...


class Flow:
    """The events of a stream on their way to the caller; the one that completes it comes after
    the usage row.

    An iterator and no generator: a generator, and each one around it, costs an event more than
    everything that is done to it.
    """

    __slots__ = ("_call", "_held", "_is_over", "_last", "_next", "_opened", "_reader", "_speak")

    def __init__(self, call: Ending, opened: Opened, speak: Callable[[bytes], bytes]) -> None:
        self._call = call
        self._opened = opened
        self._reader = opened.reader
        self._speak = speak
        self._next = opened.stream.chunks.__anext__
        self._held: bytes | None = opened.held
        self._last: list[bytes] = []
        self._is_over = False

    def __aiter__(self) -> "Flow":
        return self

    async def __anext__(self) -> bytes:
        """Return the next events, ``b""`` where the upstream's amount to none."""
        if self._is_over:
            if not self._last:
                raise StopAsyncIteration
            return self._last.pop(0)
        reader = self._reader
        try:
            if self._held is None:
                piece = self._speak(reader.feed(await self._next()))
            else:
                piece, self._held = self._speak(self._held), None
            if reader.is_done:
                await self._call.end(self._opened)
                await self._finish()
        except StopAsyncIteration:
            return await self._cut_short(None)
        except AppError as error:
            return await self._cut_short(error)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        return piece

    async def aclose(self) -> None:
        """The caller reads no further."""
        if not self._is_over:
            self._call.leave()
            await self._finish()

    async def _cut_short(self, error: AppError | None) -> bytes:
        """The upstream has ended its stream, with or without its closing mark."""
        piece = b""
        if error is None:
            piece = self._speak(self._reader.finish())
            if self._reader.is_done:
                await self._call.end(self._opened)
        self._last = [self._speak(e) for e in self._call.broken_off(self._opened, error)]
        await self._finish()
        return piece

    async def _finish(self) -> None:
        self._is_over = True
        await self._opened.close()
