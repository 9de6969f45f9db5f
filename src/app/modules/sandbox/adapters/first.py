"""The first of several runners that isolates well enough."""

from collections.abc import Callable, Sequence
from typing import Final

from app.kernel import log
from app.modules.sandbox.ports import (
    Capabilities,
    NoWall,
    Runner,
    Template,
    TemplateSpec,
    Wall,
)

RANKS: Final = ("none", "B", "A", "docker", "gvisor")

_log = log.get("sandbox")


class FirstRunner:
    """Implements ``ports.Runner``. A runner is made when those before it are not good enough."""

    def __init__(self, runners: Sequence[Callable[[], Runner]], least: str) -> None:
        self._runners = runners
        self._least = least
        self._chosen: Runner | None = None

    async def open(self) -> Capabilities:
        reasons: list[str] = []
        walls: tuple[Wall, ...] = ()
        for make in self._runners:
            runner = make()
            try:
                found = await _opened(runner)
            except BaseException:
                await runner.close()
                raise
            walls += found.walls
            if found.tier != "none" and RANKS.index(found.tier) >= RANKS.index(self._least):
                self._chosen = runner
                return found
            least = f"tier {found.tier} is less than SANDBOX_MIN_TIER={self._least}"
            reasons.append(f"{found.runner}: {found.reason or least}")
            await runner.close()
        return Capabilities("none", "none", walls, "; ".join(reasons))

    async def prepare(self, spec: TemplateSpec) -> Template:
        if self._chosen is None:
            raise NoWall("Nothing on this host isolates scripts well enough.")
        return await self._chosen.prepare(spec)

    async def sweep(self) -> None:
        if self._chosen is not None:
            await self._chosen.sweep()

    async def close(self) -> None:
        if self._chosen is not None:
            await self._chosen.close()


async def _opened(runner: Runner) -> Capabilities:
    """A runner whose test breaks isolates nothing."""
    try:
        return await runner.open()
    except Exception as error:  # noqa: BLE001 - the next runner may be good
        _log.exception("sandbox.runner-broken", error)
        return Capabilities(
            type(runner).__name__, "none", reason="Its test broke; the log says how."
        )
