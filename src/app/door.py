"""The door of the house: what happens to every request before and after its handler.

One ASGI layer does it all: a request id, the body limit, the access log and the request metrics.
"""

import re
import time
from collections.abc import Awaitable
from typing import Any

import msgspec
from litestar.enums import ScopeType
from litestar.status_codes import HTTP_200_OK
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import Histogram

from app.kernel import log, problems
from app.kernel.db import uuid7_hex
from app.kernel.errors import TooLarge
from app.kernel.mount import Block

ID_SHAPE = re.compile(rb"[A-Za-z0-9._-]{1,64}")
MAX_CHILDREN = 10_000
UNREAD_LIMIT_BYTES = 65_536

SECONDS = Histogram(
    "insula_http_request_seconds", "Time to the last byte.", ("method", "route", "status")
)


class AccessLine(msgspec.Struct):
    """One line of the access log. Never a query string, a header or a body."""

    at: float
    level: str
    event: str
    request_id: str
    method: str
    path: str
    status: int
    ms: float


class BodyTooLarge(TooLarge):
    """The body is larger than this path accepts."""

    title = "Body too large"


class Door:
    """Wraps the application. ``limits`` maps path prefixes to bytes; ``""`` is the default.

    Without ``lines`` there is no access log.
    """

    def __init__(
        self, app: ASGIApp, block: Block, limit: int, lines: log.LineWriter | None
    ) -> None:
        self._app = app
        self._hot = block.hot_paths
        self._dialects = block.dialects
        self._limits = sorted(block.body_limits.items(), key=lambda item: -len(item[0]))
        self._limit = limit
        self._lines = lines
        self._encode = msgspec.json.Encoder().encode
        self._children: dict[tuple[str, str, int], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        visit = Visit(scope, receive, send, self._limit_of(scope["path"]))
        token = log.request_id.set(visit.request_id)
        try:
            if visit.announces_too_much:
                raise visit.too_large()
            hot = self._hot.get(visit.path) if visit.is_plain_post else None
            if hot is None:
                await self._app(scope, visit.receive, visit.send)
            else:
                scope["path_template"] = visit.path
                await hot(scope, visit.receive, visit.send)
        except Exception as error:
            if visit.status:
                raise
            await self._refuse(visit, error)
        finally:
            log.request_id.reset(token)
            self._record(visit, scope)

    def _limit_of(self, path: str) -> int:
        for prefix, limit in self._limits:
            if path.startswith(prefix):
                return limit
        return self._limit

    async def _refuse(self, visit: "Visit", error: Exception) -> None:
        problem = problems.of(error)
        wire = problems.renderer_for(visit.path, self._dialects)(problem)
        headers = [
            (b"content-type", wire.media_type.encode()),
            (b"content-length", str(len(wire.body)).encode()),
            *((name.encode(), value.encode()) for name, value in problem.headers.items()),
        ]
        await visit.send(
            {"type": "http.response.start", "status": problem.status, "headers": headers}
        )
        await visit.send({"type": "http.response.body", "body": wire.body, "more_body": False})

    def _record(self, visit: "Visit", scope: Scope) -> None:
        elapsed_s = time.perf_counter() - visit.started
        route = scope.get("path_template") or "unmatched"
        if route not in self._hot or visit.status != HTTP_200_OK:
            self._observe((visit.method, route, visit.status), elapsed_s)
        if self._lines is None:
            return
        line = AccessLine(
            at=round(time.time(), 6),
            level="info",
            event="http.request-finished",
            request_id=visit.request_id,
            method=visit.method,
            path=visit.path,
            status=visit.status,
            ms=round(elapsed_s * 1000, 3),
        )
        self._lines.write(self._encode(line))

    def _observe(self, key: tuple[str, str, int], elapsed_s: float) -> None:
        """Time a request. Good ones on the hot paths are timed by their module, and only there."""
        child = self._children.get(key)
        if child is None:
            child = SECONDS.labels(key[0], key[1], str(key[2]))
            if len(self._children) < MAX_CHILDREN:
                self._children[key] = child
        child.observe(elapsed_s)


class Visit:
    """One request on its way through the door."""

    __slots__ = (
        "_announced_bytes",
        "_next_receive",
        "_next_send",
        "_seen_bytes",
        "announces_too_much",
        "is_plain_post",
        "limit",
        "method",
        "path",
        "request_id",
        "started",
        "status",
    )

    def __init__(self, scope: Any, receive: Receive, send: Send, limit: int) -> None:
        self.started = time.perf_counter()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.limit = limit
        self.status = 0
        self.request_id = ""
        self.announces_too_much = False
        self._announced_bytes = 0
        self.is_plain_post = self.method == "POST"
        self._next_receive = receive
        self._next_send = send
        self._seen_bytes = 0
        for name, value in scope["headers"]:
            if name == b"x-request-id" and ID_SHAPE.fullmatch(value):
                self.request_id = value.decode()
            elif name == b"content-length" and value.isdigit():
                self._announced_bytes = int(value[:20])
                self.announces_too_much = self._announced_bytes > limit
            elif name == b"origin":
                self.is_plain_post = False
        if not self.request_id:
            self.request_id = uuid7_hex()

    async def receive(self) -> Any:
        message = await self._next_receive()
        if message["type"] == "http.request":
            self._seen_bytes += len(message.get("body", b""))
            if self._seen_bytes > self.limit:
                raise self.too_large()
        return message

    def too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"This path accepts {self.limit} bytes at most.")

    def send(self, message: Message) -> Awaitable[None]:
        """Send, and note what begins an answer. No coroutine: a stream sends with every event."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            if self._announced_bytes - self._seen_bytes > UNREAD_LIMIT_BYTES:
                # The server will not wait for the rest, and the client's next request would meet
                # a connection that is gone.
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        return self._next_send(message)
