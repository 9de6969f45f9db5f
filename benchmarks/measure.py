"""Requests under load: every target in every round, in a shuffled order, side by side."""

import contextlib
import json
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.furnish import furnished
from benchmarks.processes import BenchError, Server, machine_cpu_s
from benchmarks.targets import (
    BARE,
    DIRECT,
    FAST_MODEL,
    INSULA,
    LITELLM,
    LITESTAR,
    OWN,
    PACED_MODEL,
    PLAIN_MODEL,
    REFERENCE,
    SMG,
    TWIN,
    Street,
    body,
    make_ready,
)

QUIET_STEP_S = 0.1
QUIET_CPU_S = 0.004
QUIET_LIMIT_S = 20.0
LOAD_LIMIT_S = 60.0

Sample = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How long and how often is measured. ``soak``: memory, from which request to which."""

    rounds: int
    seconds: float
    warm_s: float
    quiet_s: float
    starts: int
    is_full: bool
    soak: tuple[int, int] = (20_000, 60_000)


FULL = Effort(rounds=5, seconds=1.2, warm_s=0.3, quiet_s=0.4, starts=5, is_full=True)
QUICK = Effort(rounds=3, seconds=0.5, warm_s=0.1, quiet_s=0.2, starts=2, is_full=False)
LONG_SOAK = (50_000, 500_000)


@dataclass(frozen=True)
class Cell:
    """One kind of load. `rate` makes it an open loop of so many requests a second.

    Streams that are paced need no warming up, and a second less is a wave of them less. `targets`
    are those that it is for.
    """

    name: str
    title: str
    body: str
    connections: int
    targets: tuple[str, ...]
    header: str = ""
    rate: float = 0
    least_s: float = 0
    is_quick: bool = True
    is_warmed: bool = True

    @property
    def is_stream(self) -> bool:
        return '"stream":true' in self.body


GATEWAYS: Final = (DIRECT, REFERENCE, TWIN, LITESTAR, INSULA, SMG, LITELLM)
PLAIN = body(PLAIN_MODEL)
ONE: Final = Cell("plain-1", "Plain calls, one connection", PLAIN, 1, (*GATEWAYS, OWN, BARE))
SIXTEEN: Final = Cell("plain-16", "Plain calls, 16 connections", PLAIN, 16, (*GATEWAYS, OWN, BARE))
STEADY: Final = Cell(
    "plain-20-a-second",
    "Plain calls, 20 a second whatever the answer takes",
    PLAIN,
    16,
    (*GATEWAYS, BARE),
    rate=20,
    least_s=4,
    is_quick=False,
)
FAST: Final = Cell(
    "stream-8",
    "8 streams at once, no delay between events",
    body(FAST_MODEL, stream=True),
    8,
    GATEWAYS,
)
PACED: Final = Cell(
    "paced-64",
    "64 streams at once, an event every 10 ms",
    body(PACED_MODEL, stream=True),
    64,
    GATEWAYS,
    least_s=0.9,
    is_warmed=False,
)
KILOBYTE, BIG, HUGE = (
    Cell(
        f"prompt-{name.replace(' ', '').lower()}",
        f"Prompts of {name}, 16 connections",
        body(PLAIN_MODEL, prompt_bytes=size),
        16,
        tuple(name for name in GATEWAYS if name != TWIN),
    )
    for name, size in (("1 KB", 1_000), ("100 KB", 100_000), ("1 MB", 1_000_000))
)
HIT: Final = Cell(
    "cache-hit",
    "Answers from the cache, 16 connections",
    PLAIN,
    16,
    (BARE, INSULA),
    header="x-cache-ttl: 3600",
)
CELLS: Final = (ONE, SIXTEEN, STEADY, FAST, PACED, KILOBYTE, BIG, HUGE, HIT)


class Range:
    """The running targets and the load generator."""

    def __init__(self, street: Street, effort: Effort, targets: Mapping[str, Server]) -> None:
        self._street = street
        self._effort = effort
        self._targets = targets
        self._bodies = {cell.name: self._kept(cell) for cell in CELLS}

    def rounds(self, cells: tuple[Cell, ...]) -> Iterator[Sample]:
        for number in range(self._effort.rounds):
            for cell in cells:
                names = [name for name in cell.targets if name in self._targets]
                for name in random.sample(names, len(names)):
                    yield self._shoot(cell, name) | {"round": number}
            print(f"round {number + 1} of {self._effort.rounds}", flush=True)

    def _shoot(self, cell: Cell, name: str) -> Sample:
        target, upstream = self._targets[name], self._street.upstream
        others = [] if target is upstream else [upstream]
        before, others_before = target.cpu_s(), sum(each.cpu_s() for each in others)
        own_before, began = time.process_time(), time.monotonic()
        machine_before, stolen_before = machine_cpu_s()
        load = self._load(cell, target)
        machine, stolen = machine_cpu_s()
        took = time.monotonic() - began
        at_end, others_after = target.cpu_s(), sum(each.cpu_s() for each in others)
        own = time.process_time() - own_before + load["cpu_s"]
        own += at_end - before + others_after - others_before
        spent = self._settle(target) - before
        return {
            "cell": cell.name,
            "target": name,
            "cpu_ms": 1e3 * spent / max(1, load["sent"]),
            "cpu_us_per_event": 1e6 * spent / load["events"] if load["events"] else None,
            "foreign_cores": max(0.0, machine - machine_before - own) / took,
            "stolen_cores": (stolen - stolen_before) / took,
            "failed": load["http_errors"] + load["broken"] + load["no_done"],
            **load,
        }

    def _load(self, cell: Cell, target: Server) -> Sample:
        effort = self._effort
        seconds = max(effort.seconds, cell.least_s)
        warm_s = effort.warm_s if cell.is_warmed else 0
        options = f"-p {target.port} -c {cell.connections} -r {cell.rate} -d {seconds} -w {warm_s}"
        headers = (f"authorization: Bearer {target.key}", *filter(None, [cell.header]))
        command = [str(self._street.places.load), *options.split(), "-f", self._bodies[cell.name]]
        for header in headers:
            command += ["-H", header]
        done = subprocess.run(command, capture_output=True, timeout=LOAD_LIMIT_S, check=True)
        load: Sample = json.loads(done.stdout)
        if not load["answered"]:
            status = load["odd_status"]
            raise BenchError(f"{target.name}: no answer in {cell.name} ({status})\n{target.tail()}")
        return load

    def _kept(self, cell: Cell) -> str:
        """Write a cell's body where the load generator reads it."""
        path = self._street.folder() / "body.json"
        path.write_text(cell.body)
        return str(path)

    def _settle(self, target: Server) -> float:
        """Wait until the target is idle, so that it pays itself for what it does afterwards."""
        began, quiet_s, last = time.monotonic(), 0.0, target.cpu_s()
        while quiet_s < self._effort.quiet_s and time.monotonic() - began < QUIET_LIMIT_S:
            time.sleep(QUIET_STEP_S)
            now = target.cpu_s()
            quiet_s = quiet_s + QUIET_STEP_S if now - last < QUIET_CPU_S else 0.0
            last = now
        return last


def measure(street: Street, effort: Effort) -> tuple[list[Sample], dict[str, float]]:
    """All cells against all targets; and each target's memory when everything is over."""
    servers = [street.reference(), street.reference(TWIN), street.litestar()]
    servers += [street.own(), street.bare()]
    cells = tuple(cell for cell in CELLS if cell.is_quick or effort.is_full)
    with contextlib.ExitStack() as stack:
        targets = {DIRECT: street.upstream}
        for server in (*servers, *street.peers()):
            targets[server.name] = stack.enter_context(street.started(server))
            make_ready(server)
        targets[INSULA] = stack.enter_context(furnished(street))
        samples = list(Range(street, effort, targets).rounds(cells))
        memory = {
            name: server.pss_mib()
            for name, server in targets.items()
            if name not in {DIRECT, OWN, BARE}
        }
    return samples, memory
