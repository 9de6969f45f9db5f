"""What routing needs outside: servers that run models, and HTTP to reach them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol
from uuid import UUID

import msgspec

from app.modules.routing.domain.cards import Card
from app.modules.routing.domain.choice import Policy
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.prices import Price

Headers = tuple[tuple[str, str], ...]


class Deadlines(msgspec.Struct, frozen=True):
    """How long an upstream is waited for, in seconds, phase by phase.

    ``first_byte_s`` counts from the end of the request to the head of the answer, ``idle_s`` is
    the longest silence after it.
    """

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 600.0


class Ask(msgspec.Struct, frozen=True):
    """One call of a model, as its upstream is to be asked.

    ``model`` is its name there, and stands in ``body`` too. ``key`` is the credential to use, ""
    for none; one that is the caller's own is kept nowhere. ``affinity`` is a stable mark of the
    conversation, for servers that place by it, ``beta`` what the caller says in
    ``Anthropic-Beta``, and ``trace`` the headers by which the upstream joins the call's trace.
    """

    surface: Surface
    model: str
    body: bytes
    key: str = ""
    is_own_key: bool = False
    affinity: str = ""
    beta: str = ""
    deadlines: Deadlines = Deadlines()
    trace: Headers = ()


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

    ``surfaces`` are those that it answers itself, in their own wire format. Raises
    ``BadUpstream`` or ``UpstreamTimeout``, never an exception of its library's. Cancelling a call
    cuts it off at the upstream.
    """

    @property
    def surfaces(self) -> frozenset[Surface]: ...

    async def post(self, ask: Ask) -> Answer: ...

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        """Open a stream; an answer that is no event stream, such as an error, comes whole."""
        ...

    async def models(self) -> list[str]:
        """Names of the models that the server offers now."""
        ...

    async def close(self) -> None: ...


class HttpRequest(msgspec.Struct, frozen=True):
    """One request to the client's server: a GET without a ``body``, else a POST of JSON.

    ``path`` is relative to the server's base URL and may carry a query. ``is_private``: the
    headers hold somebody's own key, or are this call's alone, and nothing that is made of them
    may be kept.
    """

    path: str
    body: bytes = b""
    headers: Headers = ()
    deadlines: Deadlines = Deadlines()
    is_private: bool = False


class HttpClient(Protocol):
    """HTTP to one server, over kept connections. Follows no redirect, keeps no cookie.

    Raises ``UpstreamUnreachable``, ``UpstreamSilent`` or ``AnswerTooLarge`` (domain/faults.py).
    Cancelling ``fetch`` or ``open``, or closing a stream, cuts the connection.
    """

    async def fetch(self, request: HttpRequest) -> Answer: ...

    async def open(self, request: HttpRequest) -> Answer | AnswerStream:
        """Read the head; an event stream with status 200 is handed over open, all else whole."""
        ...

    async def close(self) -> None: ...


class Seal(Protocol):
    """Seals bytes for whoever knows ``context``; neither waits for anything but the processor."""

    def seal(self, text: bytes, context: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, context: bytes) -> bytes | None:
        """``None`` for what was sealed with a secret that we no longer have, or not by us."""
        ...


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A server that the settings name. ``connect`` loads its client and makes the upstream.

    With a ``probe``, the server counts as there only while the probe says so. The tokens of a
    free one cost nothing. ``keys`` are used in turn; ``takes_keys`` says whether a caller may
    bring one of their own. ``tells_usage``: streams end with their usage when asked for it.
    ``reads_to_end``: a call whose caller has left is read to its end and billed exactly, else it
    is cut and billed by estimate. ``takes_routing``: understands OpenRouter's own members.
    ``limit_member``: what the limit of an answer is called there, in chats translated here.
    ``is_pool``: a balancer before many replicas, whose 5xx mean saturation and not defect.
    """

    name: str
    connect: Callable[[], Awaitable[Upstream]]
    is_free: bool = False
    probe: Callable[[], Awaitable[bool]] | None = None
    keys: tuple[str, ...] = ()
    takes_keys: bool = False
    tells_usage: bool = True
    reads_to_end: bool = False
    takes_routing: bool = False
    limit_member: str = "max_tokens"
    is_pool: bool = False
    parallel: int = 0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a name can lead: a model at an upstream, its price and its terms."""

    source: Source
    upstream: Upstream
    model: str
    price: Price | None
    weight: int = 1
    deadlines: Deadlines = Deadlines()
    card: Card = Card()

    @property
    def key(self) -> tuple[str, str]:
        """What its load is kept under."""
        return self.source.name, self.model


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Where a name leads: its targets in order, and the policy that chooses among them.

    ``user_id`` is set where the name is one user's alone.
    """

    name: str
    targets: tuple[Target, ...]
    kind: str
    created_s: int
    policy: Policy = "ordered"
    deadline_s: float = 600.0
    is_listed: bool = True
    user_id: UUID | None = None


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A server that registered itself and is alive. ``user_id`` is set where it serves one user.

    ``names`` gives the names under which a model of it is offered, and whether each is listed.
    """

    source: Source
    upstream: Upstream
    models: tuple[str, ...]
    created_s: int
    user_id: UUID | None = None

    def names(self, model: str) -> tuple[tuple[str, bool], ...]:
        qualified = f"{self.source.name}/{model}"
        if self.user_id is not None:
            return ((qualified, True),)
        return ((model, True), (qualified, False))
