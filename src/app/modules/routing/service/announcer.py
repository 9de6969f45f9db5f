"""A local agent telling its router that it is there, for as long as it is."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from app.kernel import log
from app.kernel.errors import AppError, Unavailable
from app.modules.routing.domain.workers import PREFIX, Lease, Registration, retry_s
from app.modules.routing.ports import Route

# While there is no model yet, as a local one takes its time to load.
LOOK_EVERY_S: Final = 2.0
LEAVE_WITHIN_S: Final = 3.0

Describe = Callable[[], Awaitable[Registration]]

_log = log.get("routing")


class NoModelYet(Unavailable):
    """Nothing runs here, or not yet."""

    title = "No model yet"


class RouterDesk(Protocol):
    """Where workers register, at one router. Raises ``AppError`` when it cannot be told."""

    async def register(self, said: Registration) -> Lease: ...

    async def beat(self, name: str, queue_length: int) -> Lease | None:
        """``None`` when the router knows no such worker, and it must register again."""
        ...

    async def leave(self, name: str) -> None: ...

    async def close(self) -> None: ...


class Announcer:
    """``describe`` says what is to be announced at this moment. ``draw`` is uniform in [0, 1)."""

    def __init__(
        self,
        desk: RouterDesk,
        describe: Describe,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._desk = desk
        self._describe = describe
        self._pause = pause
        self._draw = draw
        self._said: Registration | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin. The router need not be there yet."""
        self._task = asyncio.create_task(self._run(), name="routing-announcer")

    async def close(self) -> None:
        """Stop, and take leave of the router, so that nobody is sent here any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._said is not None:
            with suppress(AppError, TimeoutError):
                async with asyncio.timeout(LEAVE_WITHIN_S):
                    await self._desk.leave(self._said.name)
        await self._desk.close()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                wait_s = await self._tell()
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it was, the router is told again
                failures += 1
                self._complain(error, failures)
                wait_s = retry_s(failures, self._draw())
            await self._pause(wait_s)

    async def _tell(self) -> float:
        """Tell the router once, and return the seconds until it is to be told again."""
        now = await self._describe()
        lease = None
        if now.is_as(self._said):
            lease = await self._desk.beat(now.name, now.queue_length)
        if lease is None:
            # Not registered, until the router has said so.
            self._said = None
            lease = await self._desk.register(now)
            _log.info("routing.agent-registered", worker=now.name, models=len(now.models))
            self._said = now
        return lease.heartbeat_s if now.models else min(LOOK_EVERY_S, lease.heartbeat_s)

    def _complain(self, error: Exception, failures: int) -> None:
        """Say what is wrong when it begins, and not with each try."""
        if not isinstance(error, AppError):
            _log.exception("routing.announcing-failed", error)
        elif failures == 1:
            _log.warning("routing.router-not-told", reason=str(error))


def own_models(routes: Iterable[Route]) -> list[str]:
    """The names that an agent announces: what runs here, MLX first, and no worker's of its own."""
    names = [
        route.name
        for route in routes
        if not any(target.source.name.startswith(PREFIX) for target in route.targets)
    ]
    return sorted(names, key=lambda name: not name.startswith("mlx/"))


def own_model(routes: Iterable[Route]) -> str:
    """The model of whoever names none; ``NoModelYet`` while there is none."""
    names = own_models(routes)
    if not names:
        raise NoModelYet("This agent has no model yet; try again in a moment.", retry_after_s=5.0)
    return names[0]
