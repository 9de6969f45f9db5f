"""`python -m benchmarks.sandbox.crash`: is no execution lost, and none run twice, by `kill -9`?

Executions are submitted, each with an `Idempotency-Key`, while the server is killed again and again
and started on the same data. Afterwards every key is asked again, every execution is looked up, and
the log of each is read. Ends with 1 when one is wrong. Only a run of the full length changes
docs/benchmarks.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import build
from benchmarks.processes import BenchError, Server
from benchmarks.sandbox import page
from benchmarks.sandbox.books import LOST, TWICE, WRONG, Judged, judge, read_books
from benchmarks.sandbox.crowd import PATIENCE_S, Crowd
from benchmarks.sandbox.family import Family, Witness
from benchmarks.sandbox.house import insula, make_ready, passable, scratch_left
from benchmarks.targets import ROOT

FULL_EXECUTIONS = 2000
FULL_EVERY = 200
# More than two at work, so that a kill finds scripts in every state.
REPLICAS = 6
DEAD_WITHIN_S: Final = 2.0
LEFT_PROCESSES, LEFT_FILES = "processes alive 2 s after a kill", "files left"


@dataclass
class Findings:
    """What became of all of them. ``wrong`` has nothing but zeroes if all is well."""

    executions: int
    kills: int
    ends: Counter[str]
    wrong: dict[str, int]
    examples: list[str]
    witnessed: int

    @property
    def is_good(self) -> bool:
        return not any(self.wrong.values())


async def run(scratch: Path, executions: int, every: int, tier: str = "auto") -> Findings:
    """Submit so many, kill the server after each ``every`` of them, and look at what is left."""
    data, temporary = scratch / "data", scratch / "tmp"
    passable(scratch, temporary)
    settings = {
        "SANDBOX_REPLICAS": str(REPLICAS),
        "SANDBOX_JAIL_TIER": tier,
        "TMPDIR": str(temporary),
    }
    server = insula(sys.executable, data, **settings)
    crowd = Crowd(server, executions)
    with Witness() as witness:
        try:
            _start(server, scratch)
            left = await _go_through(crowd, server, scratch, list(_moments(executions, every)))
            await crowd.settle()
            family = Family(server.pid)
        finally:
            await asyncio.to_thread(server.stop)
    left += family.left()
    files = scratch_left(temporary, data)
    books = read_books(data / "insula.db")
    judged = [judge(each, books, witness.seen[each.number]) for each in crowd.all]
    kills = len(list(_moments(executions, every)))
    return _findings(judged, kills, left, files, sum(map(bool, witness.seen.values())))


async def _go_through(crowd: Crowd, server: Server, scratch: Path, moments: list[int]) -> list[int]:
    """Let everything be submitted, and kill the server at these moments; who outlived it."""
    left: list[int] = []
    crowd.is_up.set()
    running = asyncio.create_task(crowd.run())
    try:
        for moment in moments:
            await _until_taken(crowd, running, moment)
            crowd.is_up.clear()
            left += await asyncio.to_thread(_kill, server)
            await asyncio.to_thread(_start, server, scratch)
            crowd.is_up.set()
        await running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return left


def _findings(
    judged: list[Judged], kills: int, left: list[int], files: list[Path], witnessed: int
) -> Findings:
    examples = [each.why for each in judged if each.wrong]
    examples += [str(path) for path in files] + [f"process {pid}" for pid in left]
    ends = Counter(each.end for each in judged if not each.wrong)
    wrong = {kind: sum(each.wrong == kind for each in judged) for kind in (LOST, TWICE, WRONG)}
    wrong |= {LEFT_PROCESSES: len(left), LEFT_FILES: len(files)}
    return Findings(len(judged), kills, ends, wrong, examples, witnessed)


def _moments(executions: int, every: int) -> Iterator[int]:
    """After how many executions were taken the server is killed; never after the last."""
    yield from range(every, executions, every)


async def _until_taken(crowd: Crowd, running: "asyncio.Task[None]", count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while crowd.taken < count:
            if running.done():
                await running
            await asyncio.sleep(0.001)


def _kill(server: Server) -> list[int]:
    """Kill the server; who of its processes is alive two seconds later."""
    family = Family(server.pid)
    family.strike()
    server.kill()
    dead_by = time.monotonic() + DEAD_WITHIN_S
    while time.monotonic() < dead_by and family.left():
        time.sleep(0.01)
    return family.left()


def _start(server: Server, scratch: Path) -> None:
    log = Path(tempfile.mkdtemp(dir=scratch, prefix="log-")) / "log"
    server.start(log=log, folder=ROOT)
    make_ready(server)


def results(findings: Findings, seconds: float) -> dict[str, Any]:
    """What the page shows."""
    return {
        "measured_at": datetime.now(UTC).date().isoformat(),
        "executions": findings.executions,
        "kills": findings.kills,
        "seconds": round(seconds, 1),
        "seen_from_outside": findings.witnessed,
        "ends": dict(findings.ends.most_common()),
        "wrong": findings.wrong,
    }


def main() -> int:
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="insula-crash-") as scratch:
            work = run(Path(scratch), options.executions, options.every, options.tier)
            findings = asyncio.run(work)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    is_full = options.executions >= FULL_EXECUTIONS and options.every <= FULL_EVERY
    folder = page.DOCS if is_full else build.build_folder()
    found = results(findings, time.monotonic() - began)
    page.write(page.CRASH, found, folder)
    if page.read(page.RESULTS, folder):
        page.publish(folder)
    for name, value in found.items():
        print(f"{name}: {value}")
    print("\n".join(findings.examples[:20]), file=sys.stderr)
    return 0 if findings.is_good else 1


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox.crash", description=__doc__)
    parser.add_argument("--executions", type=int, default=FULL_EXECUTIONS)
    parser.add_argument("--every", type=int, default=FULL_EVERY, help="executions between kills")
    parser.add_argument("--tier", choices=["auto", "A", "B"], default="auto", help="of the jail")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
