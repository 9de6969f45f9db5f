"""Runs code in jails of this machine, as strong as its kernel lets them be."""

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakSet

from app.modules.sandbox.adapters.jail.host import (
    Tier,
    candidates,
    closed_folder,
    interpreter,
    is_enough,
    uid_blocks,
)
from app.modules.sandbox.adapters.jail.scratch import ScratchFolder, sweep
from app.modules.sandbox.adapters.jail.zygote import Plan, Zygote
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import (
    Capabilities,
    NoWall,
    TemplateFailed,
    TemplateSpec,
    Wall,
    WorkerFailed,
)
from insula_jail import probe

NAME: Final = "jail"
# Others may pass through, and look at nothing.
OPEN_MODE: Final = 0o711
NOT_LINUX: Final = "The jail is made of what only Linux has. Use Docker on this machine."


class Packages(Protocol):
    """Sets of packages on this machine."""

    async def ensure(self, packages: tuple[str, ...]) -> str | None:
        """The folder that has them; ``None`` for no packages, ``TemplateFailed`` with the log."""
        ...

    async def close(self) -> None:
        """Stop what is being installed."""
        ...


class NoPackages:
    """For a runner of which no project has packages."""

    async def ensure(self, packages: tuple[str, ...]) -> str | None:
        if packages:
            raise TemplateFailed("Packages cannot be installed here.")
        return None

    async def close(self) -> None: ...


class JailRunner:
    """``min_tier``: weaker ones are refused. ``forced``: the only one to try.

    ``data_dir`` gets the folders that workers write in where they have no file system of their own.
    """

    def __init__(
        self,
        data_dir: Path | str,
        packages: Packages,
        *,
        min_tier: Tier = "B",
        forced: Tier | None = None,
    ) -> None:
        self._data_dir = self._scratch_dir = Path(data_dir)
        self._packages = packages
        self._min_tier = min_tier
        self._force_tier = forced
        self._tier: Tier | None = None
        self._refusal = "The walls have not been tested."
        self._scratch: ScratchFolder | None = None
        self._zygotes: WeakSet[Zygote] = WeakSet()
        self._uid_blocks = uid_blocks()

    async def open(self) -> Capabilities:
        if sys.platform != "linux":
            self._refusal = NOT_LINUX
            return Capabilities(NAME, "none", reason=NOT_LINUX)
        # Not gather: cancelled, it would not wait for the zygotes of the other one to be closed.
        async with asyncio.TaskGroup() as group:
            host = group.create_task(asyncio.to_thread(probe.host_report))
            found = group.create_task(self._choose())
        walls = _walls(host.result(), found.result())
        return Capabilities(NAME, self._tier or "none", walls, self._refusal)

    async def prepare(self, spec: TemplateSpec) -> Zygote:
        if self._tier is None:
            raise NoWall(self._refusal)
        folder = await self._packages.ensure(spec.packages)
        if folder and self._tier == "B" and os.geteuid() == 0 and closed_folder(Path(folder)):
            text = "Packages lie below a folder that only its owner may enter; move APP_DATA."
            raise TemplateFailed(f"{text} Scripts of tier B run as users of their own.")
        return await self._start(self._tier, folder, spec.preload, spec.limits)

    async def sweep(self) -> None:
        await asyncio.to_thread(sweep, self._scratch_dir)

    async def close(self) -> None:
        self._tier, self._refusal = None, "The runner is closed."
        await self._packages.close()
        await asyncio.gather(*(zygote.close() for zygote in self._zygotes))
        if self._scratch is not None:
            await asyncio.to_thread(self._scratch.release)
            self._scratch = None

    async def _choose(self) -> dict[str, bool]:
        """Take the first tier of which all walls stand, and say which those are."""
        refusals: list[str] = []
        for tier in candidates(self._force_tier):
            try:
                found = await self._test(tier)
            except (NoWall, TemplateFailed, WorkerFailed, OSError) as error:
                refusals.append(f"Tier {tier}: {error}")
            else:
                self._tier, self._refusal = tier, ""
                return found
        self._refusal = " ".join(refusals)
        return {}

    async def _test(self, tier: Tier) -> dict[str, bool]:
        """Start what a project would, and have one worker look at its walls from the inside."""
        if not is_enough(tier, self._min_tier):
            raise NoWall(f"not tried, for at least tier {self._min_tier} is asked for.")
        if tier == "B" and self._scratch is None:
            self._scratch_dir = await asyncio.to_thread(_scratch_parent, self._data_dir)
            self._scratch = await asyncio.to_thread(ScratchFolder.claim, self._scratch_dir)
        zygote = await self._start(tier, None, (), Limits())
        try:
            worker = await zygote.spawn()
            return {**zygote.walls, **worker.walls}
        finally:
            await zygote.close()

    async def _start(
        self, tier: Tier, folder: str | None, preload: tuple[str, ...], limits: Limits
    ) -> Zygote:
        room = self._scratch.make_room() if self._scratch and tier == "B" else None
        python = interpreter(tier)
        plan = Plan(tier, python, folder, preload, limits, next(self._uid_blocks), room)
        zygote = await Zygote.start(plan)
        self._zygotes.add(zygote)
        return zygote


def _scratch_parent(data_dir: Path) -> Path:
    """Where workers with user ids of their own can reach the folders that they write in.

    The server's data may be closed to others: then it is a folder for temporary files. ``NoWall``
    if that one is somebody else's.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or closed_folder(data_dir / "any") is None:
        return data_dir
    name = sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"insula-{name}"
    with suppress(FileExistsError):
        folder.mkdir()
        # The mode of ``mkdir`` is less what the server denies to others by habit.
        folder.chmod(OPEN_MODE)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or closed_folder(folder / "any"):
        raise NoWall(f"{folder} is not a folder of ours that others may enter.")
    return folder


def _walls(host: Iterable[dict[str, Any]], found: dict[str, bool]) -> tuple[Wall, ...]:
    """What the host says it has, corrected by what was found from the inside."""
    walls = {fact["name"]: Wall(fact["name"], fact["is_up"], fact["why"]) for fact in host}
    for name, is_up in found.items():
        why = "" if is_up else "The test from the inside found it missing."
        walls[name] = Wall(name, is_up, why)
    return tuple(walls.values())
