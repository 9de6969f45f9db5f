"""What both clients are made of, and the steps that each takes in its own way."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    TypeVar,
)

from ai_spine._call import JSON, Call
from ai_spine._following import Following
from ai_spine._pages import Pages
from ai_spine._plans import Pause, Plan, Planner
from ai_spine._settings import Settings, settings

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

T = TypeVar("T")
S = TypeVar("S", bound="SyncBase")
A = TypeVar("A", bound="AsyncBase")

TIMEOUT_S = 30
MAX_RETRIES = 3
WAIT_S = 300
INTERVAL_S = 2


class _Base:
    """The settings of a client. Its key is in none of its texts."""

    _settings: Settings

    @property
    def api_key(self) -> str | None:
        """The key that it was given."""
        return self._settings.api_key or None

    @property
    def base_url(self) -> str:
        """The address that all paths begin with."""
        return self._settings.base_url

    @property
    def timeout(self) -> float:
        """Seconds for one attempt."""
        return self._settings.timeout_s

    @property
    def max_retries(self) -> int:
        """Attempts after the first."""
        return self._settings.max_retries

    @property
    def debug(self) -> bool:
        """Whether attempts are logged."""
        return self._settings.debug

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"


class SyncBase(_Base):
    """Takes the steps of plans in the calling thread."""

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        debug: bool = False,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from ai_spine._http import Wire

        self._settings = _checked(api_key, base_url, timeout, max_retries, debug=debug)
        self._planner = Planner(self._settings)
        self._wire = Wire(self._settings, transport)
        self._sleep = sleep

    def close(self) -> None:
        """Close the connections. The client cannot be used after that."""
        self._wire.close()

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        return self._take(self._planner.send(call))

    def _take(self, plan: Plan[T]) -> T:
        """Take the steps of a plan to its end."""
        outcome: Any = None
        try:
            while True:
                step, outcome = plan.send(outcome), None
                if isinstance(step, Pause):
                    self._sleep(step.seconds)
                else:
                    outcome = self._wire.exchange(step)
        except StopIteration as end:
            value: T = end.value
            return value

    def _walk(self, pages: Pages) -> Iterator[JSON]:
        while not pages.is_over:
            yield from pages.take(self._send(pages.call))

    def _follow(self, following: Following) -> Iterator[JSON]:
        while True:
            with closing(self._wire.stream(following.open())) as pieces:
                for piece in pieces:
                    yield from following.take(piece)
                    if following.is_over:
                        return
            self._sleep(following.pause_s())


class AsyncBase(_Base):
    """Takes the steps of plans in the running loop."""

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        debug: bool = False,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        import asyncio

        from ai_spine._http import AsyncWire

        self._settings = _checked(api_key, base_url, timeout, max_retries, debug=debug)
        self._planner = Planner(self._settings)
        self._wire = AsyncWire(self._settings, transport)
        self._sleep = sleep or asyncio.sleep

    async def close(self) -> None:
        """Close the connections. The client cannot be used after that."""
        await self._wire.close()

    async def __aenter__(self: A) -> A:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _send(self, call: Call[T]) -> T:
        return await self._take(self._planner.send(call))

    async def _take(self, plan: Plan[T]) -> T:
        outcome: Any = None
        try:
            while True:
                step, outcome = plan.send(outcome), None
                if isinstance(step, Pause):
                    await self._sleep(step.seconds)
                else:
                    outcome = await self._wire.exchange(step)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _walk(self, pages: Pages) -> AsyncIterator[JSON]:
        while not pages.is_over:
            for item in pages.take(await self._send(pages.call)):
                yield item

    async def _follow(self, following: Following) -> AsyncIterator[JSON]:
        while True:
            pieces = self._wire.stream(following.open())
            try:
                async for piece in pieces:
                    for event in following.take(piece):
                        yield event
                    if following.is_over:
                        return
            finally:
                await pieces.aclose()
            await self._sleep(following.pause_s())


def _checked(
    api_key: str | None,
    base_url: str | None,
    timeout: float,
    max_retries: int,
    *,
    debug: bool,
) -> Settings:
    given = settings(api_key, base_url, timeout, max_retries, debug=debug)
    if debug:
        log = logging.getLogger("ai_spine")
        log.setLevel(logging.DEBUG)
        if not log.hasHandlers():
            log.addHandler(logging.StreamHandler())
    return given
