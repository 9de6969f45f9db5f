"""A running Insula whose scripts are measured, and what a client of it does."""

import contextlib
import http.client
import json
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.processes import BenchError, Server, free_port
from benchmarks.targets import CLIENT_KEY, INSULA, ROOT

HOST: Final = "127.0.0.1"
DEFAULT: Final = "default"
PREFIX: Final = "/sandbox"
# A script that is measured takes milliseconds; installing pandas, a minute.
ANSWER_LIMIT_S: Final = 60.0
BUILD_LIMIT_S: Final = 600.0
READY_LIMIT_S: Final = 30.0
LOOK_EVERY_S: Final = 0.002
PASSABLE: Final = 0o711
READ_BYTES: Final = 64 * 1024

Answer = dict[str, Any]


def insula(python: str, data: Path, **settings: str) -> Server:
    """Insula with its default settings, as the gateway's benchmark starts it, less the upstream."""
    port = free_port()
    environment = {
        "APP_PORT": str(port),
        "APP_DATA": str(data),
        "APP_BOOTSTRAP_KEY": CLIENT_KEY,
        **settings,
    }
    return Server(INSULA, (python, "-m", "app"), environment, port, key=CLIENT_KEY)


def passable(scratch: Path, temporary: Path) -> None:
    """Make a folder for temporary files that workers with user ids of their own can reach."""
    scratch.chmod(PASSABLE)
    temporary.mkdir(mode=PASSABLE)


def scratch_left(temporary: Path, data: Path) -> list[Path]:
    """Folders of workers, wherever they lie: there is none when no server runs."""
    return [path for folder in (temporary, data) for path in folder.rglob("jail-*")]


@contextlib.contextmanager
def running(server: Server, scratch: Path) -> Iterator[Server]:
    """Run it until the block ends; it has executed a script when the block begins."""
    log = Path(tempfile.mkdtemp(dir=scratch)) / "log"
    server.start(log=log, folder=ROOT)
    try:
        make_ready(server)
        yield server
    finally:
        server.stop()


def make_ready(server: Server) -> None:
    """Wait until it answers, and for its first script."""
    server.wait_for("/health")
    status, answer = ask(server, "POST", "/execute?wait=1", {"code": "print(1)"})
    if status != 200 or answer["status"] != "completed":
        raise BenchError(f"{server.name} runs no script: {answer}\n{server.tail()}")


def ask(
    server: Server,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    limit_s: float = ANSWER_LIMIT_S,
) -> tuple[int, Answer]:
    """One request to the sandbox over a connection of its own."""
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    connection = http.client.HTTPConnection(HOST, server.port, timeout=limit_s)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, PREFIX + path, text, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")
    finally:
        connection.close()


def told(server: Server, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
    """The same, where an error ends the benchmark."""
    status, answer = ask(server, method, path, body, limit_s=BUILD_LIMIT_S)
    if status >= 400:
        raise BenchError(f"{server.name}: {path} answered {status}: {answer}")
    return answer


def wait_for_idle(server: Server, project: str = DEFAULT) -> None:
    """Wait until every worker of a project's pool is ready."""
    give_up_at = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < give_up_at:
        found = told(server, "GET", f"/projects/{project}")
        if found["status"] == "up" and found["idle_workers"] == found["replicas"]:
            return
        time.sleep(LOOK_EVERY_S)
    raise BenchError(f"{project} has no ready workers: {found}\n{server.tail()}")


class Line:
    """A connection that is kept, on which one script after the other is executed.

    It is a bare socket and one written request, so that the client costs next to nothing.
    """

    def __init__(self, server: Server, code: str, *, project: str = DEFAULT) -> None:
        text = json.dumps({"project": project, "code": code})
        self._server = server
        self._request = (
            f"POST {PREFIX}/execute?wait=1 HTTP/1.1\r\nhost: {HOST}:{server.port}\r\n"
            f"authorization: Bearer {server.key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(text)}\r\n\r\n{text}"
        ).encode()

    def __enter__(self) -> Self:
        self._socket = socket.create_connection((HOST, self._server.port), ANSWER_LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self) -> float:
        """Run the script once; the seconds from the request to the finished answer."""
        began = time.perf_counter()
        self._socket.sendall(self._request)
        answer = self._read()
        took = time.perf_counter() - began
        if b'"status":"completed"' not in answer:
            raise BenchError(f"{self._server.name} answered {answer.decode()[:500]}")
        return took

    def _read(self) -> bytes:
        found = b""
        while b"\r\n\r\n" not in found:
            found += self._more()
        head, _, body = found.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += self._more()
        return body

    def _more(self) -> bytes:
        piece = self._socket.recv(READ_BYTES)
        if not piece:
            raise BenchError(f"{self._server.name} hung up:\n{self._server.tail()}")
        return piece
