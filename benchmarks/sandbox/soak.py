"""`python -m benchmarks.sandbox.soak`: does anything grow, or stay behind, under mixed load?

Scripts of every kind, good and bad, are executed for so many minutes, while the memory and the open
files of the server and of its zygotes are watched. Ends with 1 when one grows, an execution does
not end as it should, or a process is left. Only a run of the full length changes docs/benchmarks.
"""

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.kernel.db import POOL_SIZE
from benchmarks import build
from benchmarks.processes import BenchError, Server, rss_kib, stat_fields
from benchmarks.sandbox import page
from benchmarks.sandbox.family import Family, descriptors, is_jailed, zombies
from benchmarks.sandbox.house import insula, passable, running, scratch_left
from benchmarks.sandbox.load import Load

FULL_MINUTES = 60.0
CALLERS = 6
LOOK_EVERY_S = 1.0
SETTLE_S = 1.5
# Before this part of a run, caches fill and pages are touched for the first time.
WARM_SHARE = 0.25
LAST_SHARE = 0.75
GROWTH_LIMIT = 0.05
# A short run says nothing of growth: the last 512 executions are kept in memory on purpose.
GROWTH_FROM_MINUTES = 2.0
GROWTH_FREE_KIB = 4096
FREE_DESCRIPTORS = 2
# Connections to the database are opened when they are first needed, each with its log.
POOL_DESCRIPTORS = 2 * POOL_SIZE


@dataclass(frozen=True)
class Look:
    """What the processes held at one moment, and who was a zombie."""

    at_s: float
    server_kib: int
    zygote_kib: int
    server_files: int
    zygote_files: int
    zombies: frozenset[int]


@dataclass
class Findings:
    """``wrong`` says in words what is; it is empty if nothing is."""

    minutes: float
    ends: Counter[str]
    looks: list[Look]
    idle: tuple[Look, Look]
    wrong: list[str] = field(default_factory=list)

    @property
    def server_growth(self) -> float:
        return _growth([look.server_kib for look in self._loaded])

    @property
    def zygote_growth(self) -> float:
        return _growth([look.zygote_kib for look in self._loaded])

    @property
    def _loaded(self) -> list[Look]:
        return [look for look in self.looks if look.zygote_kib] or self.looks


async def run(scratch: Path, seconds: float, seed: int, tier: str = "auto") -> Findings:
    """Load a server for so long; then wait until it is idle, and end it."""
    temporary = scratch / "tmp"
    passable(scratch, temporary)
    settings = {"SANDBOX_JAIL_TIER": tier, "TMPDIR": str(temporary)}
    data = scratch / "data"
    server = insula(sys.executable, data, **settings)
    with running(server, scratch):
        load = Load(server, random.Random(seed))
        async with load.open():
            await load.warm()
            before = await _idle_look(server)
            looks = await _under_load(server, load, seconds)
            await load.settle()
            after = await _idle_look(server)
        family = Family(server.pid)
    findings = Findings(seconds / 60, load.ends, looks, (before, after))
    findings.wrong += load.wrong[:20]
    findings.wrong += judge(findings)
    findings.wrong += [f"process {pid} is left" for pid in family.left()]
    findings.wrong += [f"{path} is left" for path in scratch_left(temporary, data)]
    return findings


async def _under_load(server: Server, load: Load, seconds: float) -> list[Look]:
    began = time.monotonic()
    looks: list[Look] = []
    callers = [asyncio.create_task(load.call(until_s=began + seconds)) for _ in range(CALLERS)]
    try:
        while time.monotonic() < began + seconds:
            looks.append(await asyncio.to_thread(_look, server, began))
            done, _ = await asyncio.wait(
                callers, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                await task
        await asyncio.gather(*callers)
    finally:
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return looks


async def _idle_look(server: Server) -> Look:
    await asyncio.sleep(SETTLE_S)
    return await asyncio.to_thread(_look, server, 0.0)


def _look(server: Server, began: float) -> Look:
    family = Family(server.pid)
    zygotes = list(_zygotes(family))
    return Look(
        at_s=round(time.monotonic() - began, 1),
        server_kib=sum(rss_kib(pid) for pid in family.servers),
        zygote_kib=max((rss_kib(pid) for pid in zygotes), default=0),
        server_files=descriptors(family.servers),
        zygote_files=max((descriptors([pid]) for pid in zygotes), default=0),
        zombies=frozenset(zombies(family.members)),
    )


def _zygotes(family: Family) -> Iterator[int]:
    """What is started by a keeper, which is what is started by the server."""
    for pid in family.jailed:
        parent = _parent(pid)
        if is_jailed(parent) and not is_jailed(_parent(parent)):
            yield pid


def _parent(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[1]) if fields else 0


def judge(findings: Findings) -> Iterator[str]:
    before, after = findings.idle
    for name, first, last, free in (
        ("the server", before.server_files, after.server_files, POOL_DESCRIPTORS),
        ("a zygote", before.zygote_files, after.zygote_files, 0),
    ):
        if last > first + FREE_DESCRIPTORS + free:
            yield f"{name} had {first} files open when idle, and has {last}"
    lasting = _lasting_zombies(findings.looks) | after.zombies
    if lasting:
        yield f"processes {sorted(lasting)} are zombies"
    if findings.minutes < GROWTH_FROM_MINUTES:
        return
    for name, growth, kib in (
        ("the server", findings.server_growth, before.server_kib),
        ("a zygote", findings.zygote_growth, before.zygote_kib),
    ):
        if growth > GROWTH_LIMIT and growth * kib > GROWTH_FREE_KIB:
            yield f"RSS of {name} grew by {growth:.1%}"


def _lasting_zombies(looks: list[Look]) -> set[int]:
    """Those that were there three times in a row: one look may come between end and reaping."""
    found: set[int] = set()
    for first, second, third in zip(looks, looks[1:], looks[2:], strict=False):
        found |= first.zombies & second.zombies & third.zombies
    return found


def _growth(values: list[int]) -> float:
    """From the part behind the warming up to the last."""
    warm, last = int(len(values) * WARM_SHARE), int(len(values) * LAST_SHARE)
    early, late = values[warm : warm + max(1, len(values) // 4)], values[last:]
    if not early or not late or not statistics.median(early):
        return 0.0
    return statistics.median(late) / statistics.median(early) - 1


def results(findings: Findings) -> dict[str, Any]:
    """What the page shows."""
    before, after = findings.idle
    growth = {"server": findings.server_growth, "zygote": findings.zygote_growth}
    table: dict[str, Any] = {}
    for name, grown in growth.items():
        first, last = (getattr(look, f"{name}_kib") / 1024 for look in (before, after))
        table[f"RSS of the {name}, idle before and after"] = f"{first:.1f} to {last:.1f} MiB"
        table[f"RSS of the {name}, from the second quarter to the last"] = f"{grown:+.1%}"
        files = [getattr(look, f"{name}_files") for look in (before, after)]
        table[f"open files of the {name}, idle before and after"] = f"{files[0]} to {files[1]}"
    return {
        "measured_at": datetime.now(UTC).date().isoformat(),
        "minutes": findings.minutes,
        "executions": findings.ends.total(),
        "server_growth": round(findings.server_growth, 4),
        "zygote_growth": round(findings.zygote_growth, 4),
        "wrong": findings.wrong,
        "table": table | dict(sorted(findings.ends.items())),
    }


def main() -> int:
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with tempfile.TemporaryDirectory(prefix="insula-soak-") as scratch:
            work = run(Path(scratch), options.minutes * 60, options.seed, options.tier)
            findings = asyncio.run(work)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    folder = page.DOCS if options.minutes >= FULL_MINUTES else build.build_folder()
    found = results(findings)
    page.write(page.SOAK, found, folder)
    if page.read(page.RESULTS, folder):
        page.publish(folder)
    print("\n".join(f"{name}: {value}" for name, value in found["table"].items()))
    print("\n".join(findings.wrong) or "nothing wrong")
    return 1 if findings.wrong else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=FULL_MINUTES)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--tier", choices=["auto", "A", "B"], default="auto", help="of the jail")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
