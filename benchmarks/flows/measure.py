"""The measurements, in rounds: executions of a flow, and the same calls by hand."""

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.flows import byhand
from benchmarks.processes import BenchError, Server, ask, free_port, machine_cpu_s
from benchmarks.storage import wire
from benchmarks.targets import CLIENT_KEY, INSULA, ROOT

NODES: Final = 5
AT_ONCE: Final = 32
STARTERS: Final = 16
POLL_S: Final = 0.1
LIMIT_S: Final = 300.0
PAGE: Final = 500
FLOW: Final = "chain"
AGENT: Final = "done"

WALL, WALL_HAND, WALL_LOOSE = "wall", "wall-by-hand", "wall-by-hand-loose"
P99, P99_HAND = "p99", "p99-by-hand"


@dataclass(frozen=True)
class Effort:
    """How much is done."""

    rounds: int
    executions: int


FULL: Final = Effort(5, 1000)
QUICK: Final = Effort(2, 200)


@dataclass
class Results:
    """A list of values for each cell, and single facts."""

    cells: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def add(self, cell: str, value: float) -> None:
        self.cells.setdefault(cell, []).append(value)

    def ratio(self, above: str, below: str) -> float:
        """The median of the ratios inside a round."""
        pairs = zip(self.cells[above], self.cells[below], strict=True)
        return statistics.median(upper / lower for upper, lower in pairs)


class Bench:
    def __init__(self, python: str, scratch: Path, effort: Effort) -> None:
        self._python = python
        self._scratch = scratch
        self._effort = effort
        self.results = Results()

    def run(self) -> Results:
        foreign = []
        with self._agent() as agent, self._insula() as server:
            url = f"http://127.0.0.1:{agent.port}"
            self._furnish(server, url)
            for number in range(self._effort.rounds):
                print(f"flows, round {number + 1} of {self._effort.rounds}", flush=True)
                began = time.monotonic(), machine_cpu_s()[1]
                self._round(server, url, number)
                foreign.append((machine_cpu_s()[1] - began[1]) / (time.monotonic() - began[0]))
        self.results.facts["stolen_cores"] = round(statistics.median(foreign), 3)
        return self.results

    def _round(self, server: Server, url: str, number: int) -> None:
        count = self._effort.executions
        wall_s, took = self._by_hand(url, "FULL", count, number)
        self.results.add(WALL_HAND, wall_s)
        self.results.add(P99_HAND, _p99(took))
        self.results.add(WALL_LOOSE, self._by_hand(url, "NORMAL", count, number)[0])
        before = self._completed(server)
        began = time.perf_counter()
        asyncio.run(self._start(server, count))
        self._until_completed(server, before + count)
        self.results.add(WALL, time.perf_counter() - began)
        self.results.add(P99, _p99(self._took(server, count)))

    def _by_hand(
        self, url: str, synchronous: str, count: int, number: int
    ) -> tuple[float, list[float]]:
        rows = self._scratch / f"hand-{number}-{synchronous}.db"
        working = byhand.run(rows, url, synchronous, executions=count, nodes=NODES, at_once=AT_ONCE)
        return asyncio.run(working)

    async def _start(self, server: Server, count: int) -> None:
        """Start so many executions over a few connections, as fast as they are taken on."""
        body = json.dumps({"flow_id": FLOW, "input_data": {"question": "how are you"}}).encode()
        head = wire.request(
            "POST", "/spine/flows/execute", CLIENT_KEY, len(body), content_type="application/json"
        )
        left = list(range(count))

        async def work() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            while left:
                left.pop()
                writer.write(head + body)
                status, answer = await _answer(reader)
                if status != 200:
                    raise BenchError(f"an execution was answered {status}: {answer.decode()}")
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(work() for _ in range(STARTERS)))

    def _until_completed(self, server: Server, wanted: int) -> None:
        deadline = time.perf_counter() + LIMIT_S
        while (done := self._completed(server)) < wanted:
            if time.perf_counter() > deadline:
                raise BenchError(f"{done} of {wanted} executions have completed")
            time.sleep(POLL_S)

    def _completed(self, server: Server) -> int:
        return int(self._get(server, "/spine/metrics")["successful_executions"])

    def _took(self, server: Server, count: int) -> list[float]:
        took: list[float] = []
        for offset in range(0, count, PAGE):
            path = f"/spine/executions?limit={PAGE}&offset={offset}"
            for one in self._get(server, path)["executions"][: count - offset]:
                began, ended = (
                    datetime.fromisoformat(one[name]) for name in ("created_at", "completed_at")
                )
                took.append((ended - began).total_seconds())
        return took

    def _furnish(self, server: Server, url: str) -> None:
        agent = {"agent_id": AGENT, "name": "Done", "endpoint": url, "is_active": True}
        self._post(server, "/spine/agents", agent)
        nodes: list[dict[str, Any]] = [
            {
                "id": f"n{number}",
                "agent_id": AGENT,
                "depends_on": [f"n{number - 1}"][: number and 1],
            }
            for number in range(NODES)
        ]
        flow = {"flow_id": FLOW, "name": "A chain", "nodes": nodes}
        self._post(server, "/spine/flows", flow)

    def _post(self, server: Server, path: str, value: object) -> None:
        status, answer = ask(server.port, path, body=json.dumps(value), key=CLIENT_KEY)
        if status != 201:
            raise BenchError(f"{path} was answered {status}: {answer.decode()}")

    def _get(self, server: Server, path: str) -> Any:
        status, answer = ask(server.port, path, key=CLIENT_KEY)
        if status != 200:
            raise BenchError(f"{path} was answered {status}: {answer.decode()}")
        return json.loads(answer)

    @contextlib.contextmanager
    def _agent(self) -> Iterator[Server]:
        port = free_port()
        command = (self._python, "-m", "benchmarks.flows.agent", str(port))
        with self._started(Server("agent", command, {}, port)) as server:
            yield server

    @contextlib.contextmanager
    def _insula(self) -> Iterator[Server]:
        port = free_port()
        environment = {
            "APP_PORT": str(port),
            "APP_DATA": tempfile.mkdtemp(dir=self._scratch),
            "APP_BOOTSTRAP_KEY": CLIENT_KEY,
            # Its idle workers would be no part of what is measured.
            "FEATURE_SANDBOX": "off",
            "ROUTING_OLLAMA": "off",
        }
        command = (self._python, "-m", "app")
        server = Server(INSULA, command, environment, port, key=CLIENT_KEY)
        with self._started(server):
            yield server

    @contextlib.contextmanager
    def _started(self, server: Server) -> Iterator[Server]:
        log = Path(tempfile.mkdtemp(dir=self._scratch)) / "log"
        server.start(log=log, folder=ROOT)
        try:
            server.wait_for("/health")
            yield server
        finally:
            server.stop()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.rstrip().split(b"\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines)
    return int(first.split()[1]), await reader.readexactly(int(fields[b"content-length"]))


def _p99(took: list[float]) -> float:
    return sorted(took)[max(0, len(took) * 99 // 100 - 1)]
