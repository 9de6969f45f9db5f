"""The measurements, in rounds: each figure beside its reference, one after the other."""

import asyncio
import contextlib
import hashlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from benchmarks.processes import BenchError, Server, free_port, machine_cpu_s, rss_kib, tree
from benchmarks.storage import byhand, vectors, wire
from benchmarks.storage.reference_row import BODY_BYTES, ROW_ID
from benchmarks.targets import CLIENT_KEY, INSULA, ROOT

MIB: Final = 1 << 20
CONNECTIONS: Final = 16
BATCH: Final = 100
PAGE: Final = 500
TABLE: Final = "bench"
LOOK_EVERY_S: Final = 0.05

PUT, PUT_HAND = "put", "put-by-hand"
GET, GET_ROW = "get", "get-of-a-row"
UP, UP_HAND = "upload", "upload-by-hand"
DOWN, DOWN_HAND = "download", "download-by-hand"
FIRST, LAST = "first-pages", "last-pages"
SCAN, PRODUCT = "scan", "product"
PLAIN, DCPE = "search-plain", "search-dcpe"


@dataclass(frozen=True)
class Effort:
    """How much is done: a full run takes minutes."""

    rounds: int
    for_s: float
    file_mib: int
    largest_mib: int
    records: int
    pages: int
    vectors: int
    searches: int


FULL: Final = Effort(5, 3.0, 1024, 2048, 100_000, 20, 100_000, 30)
QUICK: Final = Effort(3, 1.0, 128, 256, 10_000, 5, 10_000, 10)


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


class Watch:
    """Looks at a number again and again, and remembers how far it rose above the first look."""

    def __init__(self, look: Callable[[], int]) -> None:
        self._look = look
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.growth = 0

    def __enter__(self) -> Self:
        self._first = self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            self.growth = max(self.growth, self._look() - self._first)


class Bench:
    def __init__(self, python: str, scratch: Path, effort: Effort) -> None:
        self._python = python
        self._scratch = scratch
        self._effort = effort
        self.results = Results()

    def run(self) -> Results:
        foreign = []
        with self._insula() as server, self._row_server() as rows:
            for number in range(self._effort.rounds):
                print(f"small bodies, round {number + 1} of {self._effort.rounds}", flush=True)
                began = time.monotonic(), machine_cpu_s()[1]
                self._small(server, rows)
                foreign.append((machine_cpu_s()[1] - began[1]) / (time.monotonic() - began[0]))
            print("large bodies", flush=True)
            self._large(server)
            self._largest(server)
        with self._insula() as server:
            print("the feed", flush=True)
            self._feed(server)
        with self._insula() as server:
            print("vectors", flush=True)
            vectors.measure(server, self._effort, self.results)
        self.results.facts["stolen_cores"] = round(statistics.median(foreign), 3)
        return self.results

    def _small(self, server: Server, rows: Server) -> None:
        body = os.urandom(BODY_BYTES)
        make = wire.put_record(CLIENT_KEY, body)
        for_s = self._effort.for_s
        hand = Path(tempfile.mkdtemp(dir=self._scratch))
        self.results.add(PUT_HAND, byhand.write_and_commit(hand, body, for_s))
        self.results.add(PUT, self._rate(server, make))
        path = f"/api/v1/storage/records/{self._one_record(server, body)}"
        asked = wire.request("GET", path, CLIENT_KEY)
        row = wire.request("GET", f"/rows/{ROW_ID}", CLIENT_KEY)
        self.results.add(GET_ROW, self._rate(rows, lambda: row))
        self.results.add(GET, self._rate(server, lambda: asked))

    def _rate(self, server: Server, make: Any) -> float:
        asking = wire.rate(server.port, make, connections=CONNECTIONS, for_s=self._effort.for_s)
        return asyncio.run(asking)

    def _one_record(self, server: Server, body: bytes) -> str:
        name = str(uuid4())
        head = wire.request(
            "PUT",
            f"/api/v1/storage/records/{name}",
            CLIENT_KEY,
            len(body),
            if_none_match="*",
            x_table=TABLE,
            content_type="application/octet-stream",
        )
        with wire.Line(server.port) as line:
            status, answer = line.ask(head, body)
        if status != 201:
            raise BenchError(f"a record was answered {status}: {answer.decode()}")
        return name

    def _large(self, server: Server) -> None:
        size = self._effort.file_mib * MIB
        file = wire.random_file(self._scratch / "file", size)
        for number in range(max(2, self._effort.rounds // 2)):
            path, head = self._new_record(size)
            self.results.add(UP_HAND, byhand.upload(file, self._scratch / f"kept-{number}"))
            self.results.add(UP, self._upload(server, head, file))
            self.results.add(DOWN_HAND, byhand.download(file))
            self.results.add(DOWN, self._download(server, path, file))
        file.unlink()

    def _largest(self, server: Server) -> None:
        """The most memory that a body takes while it goes up and down, looked at all the time."""
        size = self._effort.largest_mib * MIB
        file = wire.random_file(self._scratch / "file", size)
        path, head = self._new_record(size)
        with Watch(lambda: self._rss_kib(server)) as watch:
            self._upload(server, head, file)
            self._download(server, path, file)
        self.results.facts["large_rss_growth_mib"] = round(watch.growth / 1024, 1)
        file.unlink()

    def _new_record(self, size: int) -> tuple[str, bytes]:
        """Where it will be, and the head of the request that puts it there."""
        path = f"/api/v1/storage/records/{uuid4()}"
        head = wire.request(
            "PUT",
            path,
            CLIENT_KEY,
            size,
            if_none_match="*",
            x_table=TABLE,
            content_type="application/octet-stream",
        )
        return path, head

    def _rss_kib(self, server: Server) -> int:
        return sum(rss_kib(pid) for pid in tree(server.pid))

    def _upload(self, server: Server, head: bytes, file: Path) -> float:
        began = time.perf_counter()
        with wire.Line(server.port) as line:
            status = line.send_file(head, file)
        if status != 201:
            raise BenchError(f"an upload was answered {status}")
        return time.perf_counter() - began

    def _download(self, server: Server, path: str, file: Path) -> float:
        digest, size = hashlib.sha256(), 0
        began = time.perf_counter()
        with wire.Line(server.port) as line:
            for piece in line.receive(wire.request("GET", path, CLIENT_KEY)):
                digest.update(piece)
                size += len(piece)
        took = time.perf_counter() - began
        if size != file.stat().st_size:
            raise BenchError(f"a download ended after {size} bytes")
        return took

    def _feed(self, server: Server) -> None:
        with wire.Line(server.port) as line:
            for _ in range(self._effort.records // BATCH):
                self._write_batch(line)
            took, cursor, seen = [], "", 0
            while True:
                began = time.perf_counter()
                path = f"/api/v1/storage/changes?limit={PAGE}&cursor={cursor}".rstrip("=")
                status, answer = line.ask(
                    wire.request("GET", path.removesuffix("&cursor"), CLIENT_KEY)
                )
                took.append(time.perf_counter() - began)
                found = json.loads(answer)
                if status != 200:
                    raise BenchError(f"the feed was answered {status}: {found}")
                seen += len(found["items"])
                cursor = found["cursor"]
                if not found["has_more"]:
                    break
        if seen != self._effort.records:
            raise BenchError(f"the feed has {seen} of {self._effort.records} records")
        pages = self._effort.pages
        self.results.add(FIRST, statistics.median(took[:pages]))
        self.results.add(LAST, statistics.median(took[-pages - 1 : -1]))

    def _write_batch(self, line: wire.Line) -> None:
        blob, digest = "AAAA", hashlib.sha256(bytes(3)).hexdigest()
        operations = [
            {
                "op": "put",
                "id": str(uuid4()),
                "table": TABLE,
                "blob": blob,
                "checksum": digest,
                "if_none_match": "*",
            }
            for _ in range(BATCH)
        ]
        body = json.dumps({"operations": operations}).encode()
        head = wire.request(
            "POST",
            "/api/v1/storage/batch",
            CLIENT_KEY,
            len(body),
            content_type="application/json",
        )
        status, answer = line.ask(head, body)
        if status != 200:
            raise BenchError(f"a batch was answered {status}: {answer.decode()[:500]}")

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
    def _row_server(self) -> Iterator[Server]:
        port = free_port()
        options = (
            "--interface asgi --http 1 --no-ws --loop uvloop --runtime-mode auto --workers 1 "
            f"--log-level error --host 127.0.0.1 --port {port} benchmarks.storage.reference_row:app"
        )
        command = (self._python, "-m", "granian", *options.split())
        rows = {"BENCH_ROWS": str(self._scratch / "rows.db")}
        with self._started(Server("a row", command, rows, port)) as server:
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
