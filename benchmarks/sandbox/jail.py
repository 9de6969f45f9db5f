"""Workers in this process's hands: what a ready one takes, what a new one takes, what one holds."""

import asyncio
import statistics
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec
import uvloop

from app.modules.sandbox.adapters.jail.runner import JailRunner, NoPackages
from app.modules.sandbox.adapters.jail.zygote import Zygote
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import Gone, Said, TemplateSpec, Worker
from app.modules.sandbox.service.attempt import TOLD_LIMITS
from benchmarks.processes import BenchError, pss_kib, tree

T = TypeVar("T")

JOB: Final = {
    "t": "job",
    "code": "print(1)",
    "settings": {},
    "memory": {},
    "limits": {name: getattr(Limits(), name) for name in TOLD_LIMITS},
}
# A worker that says it is ready has a little to do before it waits.
SETTLES_S: Final = 0.005
IDLE_S: Final = 0.5
GONE_LIMIT_S: Final = 10.0


class Jail:
    """A jail without a server around it: one template, on an event loop like the server's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.tier = ""

    def __enter__(self) -> Self:
        self._loop.__enter__()
        self._runner = JailRunner(self._folder, NoPackages())
        try:
            self._template = self._do(self._open())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._runner.close())
        self._loop.__exit__(None, None, None)

    def warm(self, shots: int) -> list[float]:
        """Seconds from the job to the result, of workers that are ready."""
        return self._do(_warm(self._template, shots))

    def cold(self, shots: int) -> list[float]:
        """Seconds from the wish for a worker to the result."""
        return self._do(_cold(self._template, shots))

    def idle_memory(self, workers: int) -> dict[str, float]:
        """MiB of PSS for each of so many idle workers: their mean, their median, and what all
        processes have more than without them, by how many they are.
        """
        return self._do(_idle_memory(self._template, workers))

    async def _open(self) -> Zygote:
        found = await self._runner.open()
        self.tier = found.tier
        if found.tier == "none":
            raise BenchError(f"No jail: {found.reason}")
        return await self._runner.prepare(TemplateSpec("bench"))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work)


async def _warm(template: Zygote, shots: int) -> list[float]:
    found = []
    for _ in range(shots):
        worker = await template.spawn()
        await asyncio.sleep(SETTLES_S)
        began = time.perf_counter()
        await _finish(worker)
        found.append(time.perf_counter() - began)
        await _bury(worker)
    return found


async def _cold(template: Zygote, shots: int) -> list[float]:
    found = []
    for _ in range(shots):
        began = time.perf_counter()
        worker = await template.spawn()
        await _finish(worker)
        found.append(time.perf_counter() - began)
        await _bury(worker)
    return found


async def _finish(worker: Worker) -> None:
    """Send the job and read until the worker says that it is done."""
    await worker.send(JOB)
    async for event in worker.events():
        if isinstance(event, Gone):
            raise BenchError(f"A worker went before its script was done: {event}")
        if isinstance(event, Said) and msgspec.json.decode(event.frame)["t"] == "done":
            return


async def _bury(worker: Worker) -> None:
    worker.kill()
    async with asyncio.timeout(GONE_LIMIT_S):
        async for _ in worker.events():
            pass


async def _idle_memory(template: Zygote, count: int) -> dict[str, float]:
    await _bury(await template.spawn())
    before = tree(template.pid)
    without_kib = sum(pss_kib(pid) for pid in before)
    workers = [await template.spawn() for _ in range(count)]
    await asyncio.sleep(IDLE_S)
    members = tree(template.pid)
    shares_kib = [pss_kib(pid) for pid in members if pid not in before]
    all_kib = sum(pss_kib(pid) for pid in members)
    for worker in workers:
        await _bury(worker)
    if len(shares_kib) < count or not all(shares_kib):
        raise BenchError("The memory of workers cannot be read: that takes root.")
    return {
        "workers": count,
        "mean_mib": sum(shares_kib) / count / 1024,
        "median_mib": statistics.median(shares_kib) / 1024,
        "added_mib": (all_kib - without_kib) / count / 1024,
    }
