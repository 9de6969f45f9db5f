"""The soak itself: the calls, the kills, and the books afterwards."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.furnish import furnished, told
from benchmarks.processes import BenchError, Server
from benchmarks.targets import ROOT, Street
from benchmarks.truth import books
from benchmarks.truth.compare import DOUBLED, STRUCK, Findings, compare
from benchmarks.truth.driver import SETTLES_IN_S, Driver
from benchmarks.truth.plan import plan
from benchmarks.verdicts import Results

# Fewer places at the upstream than there are callers, so that some calls wait in the queue.
SETTINGS = {"ROUTING_PARALLEL": "48"}
FIRST_KILL, LAST_KILL = 0.2, 0.9
LOOK_EVERY_S = 0.005
LIMIT_S = 60.0
LIMIT_PER_CALL_S = 0.02
IDLE_LIMIT_S = 10.0


@dataclass(frozen=True)
class Soak:
    """How many calls, how often `kill -9`, and from which seed."""

    calls: int
    kills: int
    seed: int


async def run(street: Street, soak: Soak) -> tuple[Findings, float]:
    """Make the calls; return what was found, and how many seconds they took."""
    with street.open(), furnished(street, **SETTINGS) as server:
        driver = Driver(server.port, server.key, plan(soak.calls, soak.seed))
        began = time.monotonic()
        async with asyncio.timeout(LIMIT_S + LIMIT_PER_CALL_S * soak.calls):
            calling = asyncio.create_task(driver.run())
            try:
                for moment in _moments(soak):
                    await _until_finished(driver, calling, moment)
                    await _kill(street, server, driver)
                await calling
            finally:
                calling.cancel()
                with suppress(asyncio.CancelledError):
                    await calling
        seconds = time.monotonic() - began
        await asyncio.to_thread(_wait_until_idle, server)
        rows = await asyncio.to_thread(books.rows, server)
        left = await asyncio.to_thread(books.allowances, server)
        return compare(driver, books.served(street.upstream), rows, left), seconds


def results(soak: Soak, findings: Findings, seconds: float) -> Results:
    """What the page shows."""
    return {
        "measured_at": datetime.now(UTC).date().isoformat(),
        "calls": soak.calls,
        "kills": soak.kills,
        "seed": soak.seed,
        "seconds": round(seconds, 1),
        "table": findings.table,
        "differences": dict(findings.differences),
        "killed": killed(findings),
    }


def killed(findings: Findings) -> str:
    """What `kill -9` cost, exactly."""
    line = findings.lines[STRUCK]
    return (
        f"{line.made} calls were under way when the server was killed, or had been left by their "
        f"client less than {SETTLES_IN_S} s before. {line.whole} of them have a whole answer, "
        f"{line.rows} had come far enough to have a row, and the other {line.made - line.rows} are "
        f"all that `kill -9` may lose. {findings.differences[DOUBLED]} calls have two rows."
    )


def _moments(soak: Soak) -> Iterator[int]:
    """After how many finished calls the server is killed."""
    draw = random.Random(soak.seed)
    step = (LAST_KILL - FIRST_KILL) / max(1, soak.kills)
    for number in range(soak.kills):
        yield int(soak.calls * (FIRST_KILL + step * (number + draw.random())))


async def _until_finished(driver: Driver, calling: "asyncio.Task[None]", count: int) -> None:
    while driver.finished < count:
        if calling.done():
            await calling
            raise BenchError("The calls ended before the server was killed.")
        await asyncio.sleep(LOOK_EVERY_S)


async def _kill(street: Street, server: Server, driver: Driver) -> None:
    driver.strike()
    server.kill()
    server.start(log=street.folder() / "log", folder=ROOT)
    await asyncio.to_thread(server.wait_for, "/health")
    driver.is_up.set()


def _wait_until_idle(server: Server) -> None:
    """Calls that were left are settled a moment after their clients have gone."""
    began = idle_since = time.monotonic()
    while time.monotonic() - idle_since < SETTLES_IN_S:
        if any(found["in_flight"] or found["queued"] for found in _upstreams(server)):
            idle_since = time.monotonic()
        if idle_since - began > IDLE_LIMIT_S:
            raise BenchError("Calls are in flight that nobody has made.")
        time.sleep(LOOK_EVERY_S)


def _upstreams(server: Server) -> list[dict[str, int]]:
    found: list[dict[str, int]] = told(server, "/api/v1/routing/upstreams")["items"]
    return found
