"""The verbs of health."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from app.kernel import log
from app.kernel.errors import AppError
from app.kernel.ports import Clock
from app.modules.health.domain import Pulse, Readiness

_log = log.get("health")


class HealthService:
    def __init__(self, version: str, clock: Clock, check_timeout_s: float) -> None:
        self._version = version
        self._clock = clock
        self._check_timeout_s = check_timeout_s
        self._run: asyncio.Task[Readiness] | None = None

    def pulse(self) -> Pulse:
        return Pulse(self._version, self._clock())

    async def readiness(self, checks: Mapping[str, Callable[[], Awaitable[None]]]) -> Readiness:
        """Run all checks at once. Who asks meanwhile gets that run's answer: asking is public."""
        if self._run is None or self._run.done():
            self._run = asyncio.create_task(self._check(checks), name="health-checks")
        return await asyncio.shield(self._run)

    async def _check(self, checks: Mapping[str, Callable[[], Awaitable[None]]]) -> Readiness:
        outcomes = await asyncio.gather(*(self._passes(*check) for check in checks.items()))
        return Readiness.of(dict(zip(checks, outcomes, strict=True)))

    async def _passes(self, name: str, check: Callable[[], Awaitable[None]]) -> bool:
        try:
            async with asyncio.timeout(self._check_timeout_s):
                await check()
        except Exception as error:  # noqa: BLE001 - failing in any way at all is what is asked
            # Only our own errors have a text that is known to hold no secret.
            reason = str(error) if isinstance(error, AppError) else type(error).__name__
            _log.warning("health.check-failed", check=name, reason=reason)
            return False
        return True
