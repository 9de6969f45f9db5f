"""HTTP to one server without TLS, by a client of our own.

A gateway spends half of its time in its HTTP client, and a client that has one server, JSON
bodies and no redirects needs half of that.
"""

import asyncio
import contextlib
import re
from collections import deque
from typing import Final
from urllib.parse import urlsplit

from app.kernel.errors import Invalid
from app.modules.routing.adapters.http1_connection import Connection, Server
from app.modules.routing.adapters.http1_stream import Bell
from app.modules.routing.domain.faults import UpstreamUnreachable
from app.modules.routing.ports import Answer, AnswerStream, Deadlines, Headers, HttpRequest

KEEP_S: Final = 60.0
MAX_HEADS: Final = 1000
OWN_HEADERS: Final = {"content-type": "application/json", "accept-encoding": "identity"}
# They say where a message ends and whom it is for, which is the client's business.
FRAMING: Final = frozenset(
    {"connection", "content-length", "expect", "host", "te", "transfer-encoding", "upgrade"}
)
VISIBLE: Final = re.compile(r"[!-~]*")
TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
TEXT: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*")


class UnsendableRequest(Invalid):
    """A path or a header that the server would read as something else."""

    title = "Request cannot be sent"


class Http1Client:
    """``base_url`` is http://host:port/path; a connection is closed after ``keep_s`` unused."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        answer_limit_bytes: int,
        max_connections: int,
        keep_s: float = KEEP_S,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ValueError(f"{name}: the base URL is not of the form http://host:port/path.")
        host, port = parts.hostname.encode("idna").decode(), parts.port or 80
        bracketed = f"[{host}]" if ":" in host else host
        self._name = name
        self._root = parts.path
        self._authority = bracketed if port == 80 else f"{bracketed}:{port}"
        self._heads: dict[tuple[str, Headers], bytes] = {}
        server = Server(name, answer_limit_bytes, keep_s)
        self._pool = _Pool(server, host, port, max_connections)

    async def fetch(self, request: HttpRequest) -> Answer:
        # A stream is made only for those who may have one.
        return await self._ask(request, may_stream=False)  # type: ignore[return-value]

    async def open(self, request: HttpRequest) -> Answer | AnswerStream:
        return await self._ask(request, may_stream=True)

    async def close(self) -> None:
        await self._pool.close()

    async def _ask(
        self, request: HttpRequest, *, may_stream: bool, may_repeat: bool = True
    ) -> Answer | AnswerStream:
        """Send, and wait for what ``Connection.ask`` promises.

        A server may close a kept connection in the moment in which it is used again. A GET is
        then sent once more. A POST is not (RFC 9110, 9.2.2; RFC 9112, 9.3.1): nothing proves
        that the server has not begun it, a model call that is made twice is paid twice, and who
        asked counts their attempts themselves.
        """
        make = self._written if request.is_private else self._head
        head = make(request.path, request.headers)
        connection = self._pool.take() or await self._pool.obtain(request.deadlines)
        answer = connection.ask(head, request.body, request.deadlines, may_stream=may_stream)
        try:
            return await answer
        except UpstreamUnreachable:
            if request.body or not (may_repeat and connection.is_stale):
                raise
        except BaseException:
            connection.give_up(answer)
            raise
        # What else was kept is as old, and the second connection shall be a fresh one.
        self._pool.drop_kept()
        return await self._ask(request, may_stream=may_stream, may_repeat=False)

    def _head(self, path: str, headers: Headers) -> bytes:
        found = self._heads.get((path, headers))
        if found is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[path, headers] = found = self._written(path, headers)
        return found

    def _written(self, path: str, headers: Headers) -> bytes:
        """Write a head, less the method before it and the length of the body after it."""
        fields = {"host": self._authority} | OWN_HEADERS
        target = f"{self._root}/{path}"
        if not VISIBLE.fullmatch(target):
            raise UnsendableRequest(f"The path for {self._name} has to be percent-encoded.")
        for name, value in headers:
            if not TOKEN.fullmatch(name) or name.lower() in FRAMING:
                raise UnsendableRequest(
                    f"A header for {self._name} has a name that is the client's own or no name at"
                    " all; leave it out."
                )
            if not TEXT.fullmatch(value):
                raise UnsendableRequest(
                    f"The header {name} for {self._name} has a line break or another control"
                    " character in its value; take it out."
                )
            fields[name.lower()] = value
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f" {target} HTTP/1.1\r\n{lines}".encode()


class _Pool:
    """The connections to the server, and who waits for one.

    A slot is a connection's from before it is opened until it is closed. While anybody waits, no
    connection is free and no slot is left: what becomes free goes to the first who waits, so that
    nobody who comes later overtakes them.
    """

    def __init__(self, server: Server, host: str, port: int, max_connections: int) -> None:
        self._server = server
        self._bell = Bell()
        self._host = host
        self._port = port
        self._slots_left = max_connections
        self._is_closed = False
        self._open: set[Connection] = set()
        self._kept: list[Connection] = []
        # A waiter is given a connection, or ``None`` for a slot to open one in.
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()

    def take(self) -> Connection | None:
        """Take the connection that was kept last, so that the others may grow old and go."""
        while self._kept:
            connection = self._kept.pop()
            if connection.is_open:
                return connection
        return None

    async def obtain(self, deadlines: Deadlines) -> Connection:
        """Open a connection, or wait for one, for ``first_byte_s`` at most."""
        connection = self.take()
        while connection is None or not connection.is_open:
            if self._slots_left > 0:
                self._slots_left -= 1
                return await self._connect(deadlines.connect_s)
            connection = await self._wait(deadlines.first_byte_s)
            if connection is None:
                return await self._connect(deadlines.connect_s)
        return connection

    def drop_kept(self) -> None:
        for connection in self._kept.copy():
            connection.break_off()

    async def close(self) -> None:
        """Close every connection; calls that are under way fail."""
        self._is_closed = True
        for connection in self._open.copy():
            connection.break_off()
        # asyncio closes a socket in the round of its loop after the one that was asked to.
        await asyncio.sleep(0)

    async def _wait(self, within_s: float) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(within_s):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                # It was given in the very moment in which its waiter left.
                self._give(waiter.result())
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise self._server.silent(within_s) from None
            raise

    async def _connect(self, within_s: float) -> Connection:
        """Open a connection in a slot that the caller has; it is given back if that fails."""
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(within_s)
        try:
            if self._is_closed:
                raise ConnectionAbortedError
            async with limit:
                _, connection = await loop.create_connection(self._made, self._host, self._port)
            if self._is_closed or not connection.is_open:
                connection.break_off()
                raise ConnectionAbortedError
        except OSError as error:
            self._give(None)
            if limit.expired():
                raise self._server.silent(within_s) from None
            raise self._server.unreachable(error) from error
        except BaseException:
            self._give(None)
            raise
        self._open.add(connection)
        return connection

    def _made(self) -> Connection:
        return Connection(self._server, self._bell, self._give, self._lost)

    def _give(self, free: Connection | None) -> None:
        """Give a connection, or a slot, to the first who waits; keep it if nobody does."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(free)
                return
        if free is None:
            self._slots_left += 1
        else:
            self._kept.append(free)

    def _lost(self, connection: Connection) -> None:
        """Free the slot of a connection, unless it was lost while it was being opened."""
        if connection in self._open:
            self._open.remove(connection)
            with contextlib.suppress(ValueError):
                self._kept.remove(connection)
            self._give(None)
