"""A client of next to no cost: written requests on bare sockets that are kept."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from benchmarks.processes import BenchError

HOST: Final = "127.0.0.1"
LIMIT_S: Final = 600.0
READ_BYTES: Final = 256 * 1024


def request(method: str, path: str, key: str, size_bytes: int = 0, **headers: str) -> bytes:
    """The head of a request. Underscores in the names of headers stand for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", f"authorization: Bearer {key}"]
    if size_bytes or method in {"PUT", "POST"}:
        lines.append(f"content-length: {size_bytes}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode()


def put_record(key: str, body: bytes) -> Callable[[], bytes]:
    """A maker of requests that each create a record of its own."""
    tail = request(
        "PUT",
        "",
        key,
        len(body),
        if_none_match="*",
        x_table="bench",
        content_type="application/octet-stream",
    ).partition(b" HTTP/1.1")[2]
    return lambda: (
        b"PUT /api/v1/storage/records/%b HTTP/1.1%b%b"
        % (
            str(uuid4()).encode(),
            tail,
            body,
        )
    )


class Line:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._rest = b""

    def __enter__(self) -> Self:
        self._socket = socket.create_connection((HOST, self._port), LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Send, and read the whole answer."""
        self._socket.sendall(head + body)
        status, fields, rest = self._head()
        pieces = [rest, *self._body(fields, len(rest))]
        return status, b"".join(pieces)

    def send_file(self, head: bytes, path: Path) -> int:
        """Send a file as the body; the answer's status."""
        self._socket.sendall(head)
        with path.open("rb") as file:
            self._socket.sendfile(file)
        status, fields, rest = self._head()
        for _ in self._body(fields, len(rest)):
            pass
        return status

    def receive(self, head: bytes) -> Iterator[bytes]:
        """Ask, and pass the body on as it comes."""
        self._socket.sendall(head)
        status, fields, rest = self._head()
        if status != 200:
            raise BenchError(f"a download was answered {status}")
        yield rest
        yield from self._body(fields, len(rest))

    def _head(self) -> tuple[int, Mapping[bytes, bytes], bytes]:
        found = b""
        while b"\r\n\r\n" not in found:
            found += self._more()
        head, _, rest = found.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines)
        return int(first.split()[1]), fields, rest

    def _body(self, fields: Mapping[bytes, bytes], seen: int) -> Iterator[bytes]:
        left = int(fields.get(b"content-length", b"0")) - seen
        while left > 0:
            piece = self._more()
            left -= len(piece)
            yield piece

    def _more(self) -> bytes:
        piece = self._socket.recv(READ_BYTES)
        if not piece:
            raise BenchError("the server hung up")
        return piece


async def rate(port: int, make: Callable[[], bytes], *, connections: int, for_s: float) -> float:
    """Requests answered in a second, each connection asking again as soon as it has its answer."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + for_s
    began = time.perf_counter()
    callers = [
        (await loop.create_connection(lambda: Caller(make, deadline), HOST, port))[1]
        for _ in range(connections)
    ]
    answered = sum(await asyncio.gather(*(caller.done for caller in callers)))
    return answered / (time.perf_counter() - began)


class Caller(asyncio.Protocol):
    """Asks one thing after the other until the time is over."""

    def __init__(self, make: Callable[[], bytes], deadline: float) -> None:
        self._make = make
        self._deadline = deadline
        self._answered = 0
        self._found = b""
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._make())

    def data_received(self, data: bytes) -> None:
        self._found += data
        head, _, body = self._found.partition(b"\r\n\r\n")
        size = _length(head)
        if size is None or len(body) < size:
            return
        if head[9:10] != b"2":
            self._end(BenchError(f"answered {self._found[:500]!r}"))
            return
        self._found = b""
        self._answered += 1
        if asyncio.get_running_loop().time() > self._deadline:
            self._end(None)
        else:
            self._transport.write(self._make())

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(BenchError("the server hung up"))

    def _end(self, error: BenchError | None) -> None:
        if error is None:
            self.done.set_result(self._answered)
        else:
            self.done.set_exception(error)
        self._transport.close()


def _length(head: bytes) -> int | None:
    """The body's bytes; None while the head is not whole."""
    _, found, rest = head.lower().partition(b"\r\ncontent-length: ")
    return int(rest.split(b"\r\n", 1)[0]) if found else None


def random_file(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        for _ in range(size_bytes // READ_BYTES):
            file.write(os.urandom(READ_BYTES))
    return path
