"""Rounds: every way to run a script in every round, in a shuffled order, side by side."""

import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import BenchError, Server, machine_cpu_s
from benchmarks.sandbox.byhand import Engine, Interpreter
from benchmarks.sandbox.house import (
    BUILD_LIMIT_S,
    DEFAULT,
    Line,
    ask,
    insula,
    running,
    told,
    wait_for_idle,
)
from benchmarks.sandbox.jail import Jail

PASS, PASS_TWIN, PRINT = "hand-pass", "hand-pass-twin", "hand-print"
WARM, COLD = "warm", "cold"
HTTP, HTTP_READY = "http", "http-ready"
PANDAS, PANDAS_HAND = "pandas-http", "pandas-hand"
LOOPS, RATE = "hand-loops", "http-rate"
DOCKER, DOCKER_HAND = "docker-http", "docker-hand"

PRINT_CODE: Final = "print(1)"
PANDAS_PROJECT: Final = "bench-pandas"
PANDAS_DOCUMENT: Final = {"packages": ["pandas"], "preload": ["pandas"]}
PANDAS_REPLICAS: Final = 2
PANDAS_CODE: Final = """\
import pandas
frame = pandas.DataFrame({"key": [n % 7 for n in range(1000)], "value": range(1000)})
print(frame.groupby("key")["value"].sum().to_dict())
"""
CLIENTS: Final = (2, 4, 8)
SIDE_BY_SIDE: Final = 2
IDLE_WORKERS: Final = (16, 2)
QUIET_S: Final = 0.3
REASON_CHARS: Final = 200
WARM_SHOTS: Final = 2

Sample = dict[str, Any]
Shots = Callable[[], list[float]]


@dataclass(frozen=True)
class Effort:
    """How often is measured. ``shots`` are those of one kind in one round."""

    rounds: int
    shots: int
    dear_shots: int
    rate_s: float
    loops: int


FULL = Effort(rounds=7, shots=60, dear_shots=7, rate_s=3.0, loops=150)
QUICK = Effort(rounds=3, shots=15, dear_shots=2, rate_s=0.7, loops=30)


class Bench:
    """Everything that is measured, started. ``missing``: what cannot be measured, and why."""

    def __init__(self, python: str, scratch: Path, effort: Effort) -> None:
        self.missing: dict[str, str] = {}
        self.tier = ""
        self._python = python
        self._scratch = scratch
        self._effort = effort
        self._hand = Interpreter(scratch)
        self._cells: dict[str, Shots] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            self._jail = stack.enter_context(Jail(self._folder()))
            self.tier = self._jail.tier
            data = self._folder()
            server = insula(self._python, data)
            stack.enter_context(running(server, self._scratch))
            self._fill(server)
            self._fill_pandas(server, data)
            self._fill_docker(stack)
            yield

    def rounds(self) -> Iterator[Sample]:
        """One more round goes before, unmeasured, with a few shots of each."""
        for shots in self._cells.values():
            shots()
        for number in range(self._effort.rounds):
            foreign_cores = _foreign_cores()
            names = random.sample(list(self._cells), len(self._cells))
            for name in names:
                found = {"cell": name, "round": number, "shots": self._cells[name]()}
                yield found | {"foreign_cores": foreign_cores}
            print(f"round {number + 1} of {self._effort.rounds}", flush=True)

    def idle_memory(self) -> list[dict[str, float]]:
        try:
            return [self._jail.idle_memory(count) for count in IDLE_WORKERS]
        except BenchError as error:
            self.missing["memory"] = str(error)
            return []

    def _fill(self, server: Server) -> None:
        effort, hand, jail = self._effort, self._hand, self._jail
        self._cells = {
            PASS: lambda: [hand.run("pass") for _ in range(effort.shots)],
            PASS_TWIN: lambda: [hand.run("pass") for _ in range(effort.shots)],
            PRINT: lambda: [hand.run(PRINT_CODE) for _ in range(effort.shots)],
            WARM: lambda: jail.warm(effort.shots),
            COLD: lambda: jail.cold(effort.shots),
            HTTP: lambda: _in_a_row(server, effort.shots),
            HTTP_READY: lambda: _when_ready(server, effort.shots, PRINT_CODE),
            LOOPS: lambda: [hand.loops(SIDE_BY_SIDE, effort.loops)],
        }
        for clients in CLIENTS:
            self._cells[f"{RATE}-{clients}"] = partial(_rates, server, clients, effort.rate_s)

    def _fill_pandas(self, server: Server, data: Path) -> None:
        told(server, "PUT", f"/projects/{PANDAS_PROJECT}", PANDAS_DOCUMENT)
        wanted = {"replicas": PANDAS_REPLICAS}
        print("installing pandas, jailed", flush=True)
        status, answer = ask(
            server, "POST", f"/projects/{PANDAS_PROJECT}/up", wanted, limit_s=BUILD_LIMIT_S
        )
        if status >= 400:
            self.missing["pandas"] = _short(str(answer.get("detail", answer)))
            return
        site = next(data.glob("sandbox/packages/*/site/pandas")).parent
        effort, hand = self._effort, self._hand
        self._cells[PANDAS] = lambda: _when_ready(server, effort.shots, PANDAS_CODE, PANDAS_PROJECT)
        self._cells[PANDAS_HAND] = lambda: [
            hand.run_with(site, PANDAS_CODE) for _ in range(effort.dear_shots)
        ]

    def _fill_docker(self, stack: contextlib.ExitStack) -> None:
        engine, effort = Engine(), self._effort
        if why := engine.missing():
            self.missing["docker"] = why
            return
        settings = {"SANDBOX_RUNNER": "docker", "SANDBOX_DOCKER_IMAGE": engine.image}
        server = insula(self._python, self._folder(), **settings, **engine.variables)
        try:
            stack.enter_context(running(server, self._scratch))
        except BenchError as error:
            self.missing["docker"] = _short(str(error).splitlines()[0])
            return
        self._cells[DOCKER] = lambda: _when_ready(server, effort.dear_shots, PRINT_CODE)
        self._cells[DOCKER_HAND] = lambda: [
            engine.run(PRINT_CODE) for _ in range(effort.dear_shots)
        ]

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._scratch))


def _in_a_row(server: Server, shots: int) -> list[float]:
    """One request as soon as the one before is answered: the pool has to keep up."""
    with Line(server, PRINT_CODE) as line:
        for _ in range(WARM_SHOTS):
            line.execute()
        return [line.execute() for _ in range(shots)]


def _when_ready(server: Server, shots: int, code: str, project: str = DEFAULT) -> list[float]:
    """Each request when all workers of the pool are ready again."""
    found = []
    with Line(server, code, project=project) as line:
        for _ in range(shots):
            wait_for_idle(server, project)
            found.append(line.execute())
    return found


def _rates(server: Server, clients: int, seconds: float) -> list[float]:
    """Scripts a second that so many clients get answered, each as fast as it can."""
    done: list[int] = []
    failed: list[BaseException] = []
    stop_at = time.perf_counter() + seconds

    def client() -> None:
        count = 0
        try:
            with Line(server, PRINT_CODE) as line:
                while time.perf_counter() < stop_at:
                    line.execute()
                    count += 1
        except (BenchError, OSError) as error:
            failed.append(error)
        done.append(count)

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise BenchError(f"One of {clients} clients failed: {failed[0]}")
    return [sum(done) / (time.perf_counter() - began)]


def _short(reason: str) -> str:
    """The end of it, on one line."""
    return " ".join(reason.split())[-REASON_CHARS:]


def _foreign_cores() -> float:
    """What others of this machine work while everything here is idle."""
    (before, _), began = machine_cpu_s(), time.monotonic()
    time.sleep(QUIET_S)
    return (machine_cpu_s()[0] - before) / (time.monotonic() - began)
