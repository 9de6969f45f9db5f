"""What a caller orders: who asks, what for, and what they said beside the body."""

from collections.abc import Iterable
from typing import Final

import msgspec

from app.kernel.errors import Invalid
from app.modules.auth.api import Principal
from app.modules.routing.domain.envelope import Envelope, Surface
from app.modules.routing.ports import Headers

CACHE_TTL_LIMIT_S: Final = 86_400
VALUE_LIMIT_CHARS: Final = 512
HINTS: Final = frozenset(
    {
        b"x-provider-key",
        b"x-cache-ttl",
        b"cache-control",
        b"x-session-id",
        b"x-routing-strategy",
        b"x-max-cost",
        b"anthropic-beta",
    }
)


class BadHint(Invalid):
    """A header that steers routing has a value that cannot be used."""

    title = "Invalid header"


class Hints(msgspec.Struct, frozen=True):
    """The headers that are ours. ``own_key`` is the caller's provider key: it is used for this
    call, and kept nowhere.

    ``cache_ttl_s`` is ``None`` where the request says nothing of the cache, 0 where it wants none.
    """

    own_key: str = ""
    cache_ttl_s: int | None = None
    session: bytes = b""
    strategy: str = ""
    max_cost: str = ""
    beta: str = ""

    def __repr__(self) -> str:
        return f"Hints(strategy={self.strategy!r}, cache_ttl_s={self.cache_ttl_s})"


NO_HINTS: Final = Hints()


class Order(msgspec.Struct, frozen=True):
    """One call as it was ordered. ``started_s``: when, on ``time.perf_counter``, if that counts."""

    principal: Principal
    surface: Surface
    body: bytes
    envelope: Envelope
    hints: Hints = NO_HINTS
    started_s: float = 0.0
    trace: Headers = ()

    @property
    def is_streamed(self) -> bool:
        return bool(self.envelope.stream)


def read_hints(headers: Iterable[tuple[bytes, bytes]]) -> Hints:
    """Find our headers among a request's; most requests have none."""
    found = {name: value for name, value in headers if name in HINTS}
    if not found:
        return NO_HINTS
    return Hints(
        own_key=_plain(found.get(b"x-provider-key", b""), "X-Provider-Key"),
        cache_ttl_s=_cache_ttl_s(found),
        session=found.get(b"x-session-id", b""),
        strategy=found.get(b"x-routing-strategy", b"").decode("latin-1"),
        max_cost=found.get(b"x-max-cost", b"").decode("latin-1"),
        beta=_plain(found.get(b"anthropic-beta", b""), "Anthropic-Beta"),
    )


def _plain(value: bytes, name: str) -> str:
    """A value that goes on to an upstream: short, and of printable ASCII alone."""
    text = value.decode("latin-1").strip()
    if len(text) > VALUE_LIMIT_CHARS or not text.isascii() or not text.isprintable():
        raise BadHint(f"{name} is {VALUE_LIMIT_CHARS} plain characters at most.", param=name)
    return text


def _cache_ttl_s(found: dict[bytes, bytes]) -> int | None:
    """``X-Cache-TTL`` opts in, ``Cache-Control: no-cache`` and ``no-store`` opt out."""
    control = found.get(b"cache-control", b"").lower()
    if b"no-store" in control or b"no-cache" in control:
        return 0
    given = found.get(b"x-cache-ttl")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 9 or int(given) > CACHE_TTL_LIMIT_S:
        text = f"X-Cache-TTL is whole seconds, {CACHE_TTL_LIMIT_S} at most."
        raise BadHint(text, param="X-Cache-TTL")
    return int(given)
