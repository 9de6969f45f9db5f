"""What routing needs outside: servers that run models."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import msgspec

from app.modules.routing.domain import Price, Surface


class Answer(msgspec.Struct, frozen=True):
    """A whole answer of an upstream, as it came. ``retry_after`` is the header's text."""

    status: int
    content_type: str
    body: bytes
    retry_after: str = ""


class AnswerStream(msgspec.Struct, frozen=True):
    """An answer that is still coming. ``close`` cuts the upstream off, at any point."""

    status: int
    content_type: str
    chunks: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


class Upstream(Protocol):
    """One server. Bytes in, bytes out.

    Raises ``BadUpstream`` or ``UpstreamTimeout``, never an exception of its library's. Cancelling
    a call cuts it off at the upstream.
    """

    async def post(self, surface: Surface, body: bytes) -> Answer: ...

    async def stream(self, surface: Surface, body: bytes) -> Answer | AnswerStream:
        """Open a stream; an answer that is no event stream, such as an error, comes whole."""
        ...

    async def models(self) -> list[str]:
        """Names of the models that the server offers now."""
        ...

    async def close(self) -> None: ...


class Source(msgspec.Struct, frozen=True):
    """A server that the settings name. ``connect`` loads its client and makes the upstream.

    With a ``probe``, the server counts as there only while the probe says so. The tokens of a
    free one cost nothing.
    """

    name: str
    connect: Callable[[], Awaitable[Upstream]]
    is_free: bool = False
    probe: Callable[[], Awaitable[bool]] | None = None


class Route(msgspec.Struct, frozen=True):
    """Where a name leads. ``renames`` tells whether the body must carry another model name."""

    name: str
    upstream_name: str
    upstream: Upstream
    upstream_model: str
    kind: str
    created_s: int
    price: Price | None
    is_listed: bool = True

    @property
    def renames(self) -> bool:
        return self.name != self.upstream_model
