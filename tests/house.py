"""The whole house for a test: in this process, or as the server that users start."""

import asyncio
import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from app import schema
from app.asgi import Insula
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from tests.waiting import until

KEY = "test-bootstrap-key-0123456789abcdefghij"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
START_S = 30.0
# For a house of which many are built: its routes are most of the work, and storage has a third.
LEAN = {"FEATURE_STORAGE": "off"}


def environment(data: Path, **changes: str) -> dict[str, str]:
    """Variables of a quiet, offline house with a known owner's key and cheap password hashes.

    The sandbox is off where no test asks for it: it starts processes; and so are flows, whose many
    routes every start would pay for.
    """
    return {
        "APP_DATA": str(data),
        "APP_BOOTSTRAP_KEY": KEY,
        "ROUTING_OLLAMA": "off",
        "LOG_LEVEL": "warning",
        "FEATURE_SANDBOX": "off",
        "FEATURE_FLOWS": "off",
        "AUTH_ARGON_MEMORY_KIB": "19456",
        "AUTH_ARGON_ITERATIONS": "2",
        **changes,
    }


@cache
def _template() -> Path:
    """A migrated, empty database, made once."""
    folder = Path(tempfile.mkdtemp(prefix="insula-template-"))
    atexit.register(shutil.rmtree, folder)

    async def make() -> None:
        database = Database(f"sqlite+insula:///{folder / 'insula.db'}", JobBook())
        await schema.migrate(database.writer)
        await database.close()

    # In a thread of its own: the test that asks first has a running loop.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(make())).result()
    return folder / "insula.db"


def prepare(data: Path) -> Path:
    """Give a data folder a database of the current schema, so that tests do not migrate."""
    data.mkdir(parents=True, exist_ok=True)
    if not (data / "insula.db").exists():
        shutil.copyfile(_template(), data / "insula.db")
    return data


@asynccontextmanager
async def open_house(data: Path, **changes: str) -> AsyncIterator[tuple[Insula, httpx.AsyncClient]]:
    """Build and open the house in this loop; yield it with a client that has no key."""
    house = Insula(environment(data, **changes))
    door = house.door()
    transport = httpx.ASGITransport(door, raise_app_exceptions=False, client=("127.0.0.1", 5000))
    async with (
        alive(door),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield house, client


@asynccontextmanager
async def alive(app: Any) -> AsyncIterator[None]:
    """Run an ASGI application's lifespan around the block."""
    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(app(scope, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    await asyncio.wait(
        [running, told := asyncio.create_task(outbox.get())], return_when="FIRST_COMPLETED"
    )
    if running.done() or told.result()["type"] != "lifespan.startup.complete":
        told.cancel()
        try:
            await running
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
    try:
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningServer:
    """``python -m app`` as a process of its own, on a port of its own."""

    def __init__(self, data: Path, **changes: str) -> None:
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.log = data.parent / f"{data.name}.log"
        inherited = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        self._environment = inherited | environment(data, APP_PORT=str(self.port), **changes)
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app"], env=self._environment, stdout=log, stderr=log
            )

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self.spawn()
        async with httpx.AsyncClient() as client:

            async def is_up() -> bool:
                assert self._process is not None
                assert self._process.poll() is None, self.log.read_text()
                # Requests that nobody takes would slow the start that they wait for.
                if not self._listens():
                    return False
                try:
                    return (await client.get(self.base_url + "/health")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(is_up, within_s=START_S)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def pids(self) -> list[int]:
        """The server's processes, children first."""
        import psutil

        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [child.pid for child in parent.children(recursive=True)] + [parent.pid]

    def kill(self) -> None:
        """End it as a power cut would: nothing is told, nothing is flushed."""
        import signal

        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)

    def terminate(self) -> None:
        """Ask it to end, and do not wait."""
        assert self._process is not None
        self._process.terminate()

    def stop(self) -> int:
        """End it as a deployment would, and return its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(60)


@asynccontextmanager
async def running_server(data: Path, **changes: str) -> AsyncIterator[RunningServer]:
    server = RunningServer(prepare(data), **changes)
    await server.start()
    try:
        yield server
    finally:
        server.stop()
