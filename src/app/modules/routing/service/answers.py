"""The exact response cache: equal requests of one tenant, answered without their model.

The tenant is a part of the key itself, never of what is compared, so that no answer crosses.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from app.kernel.errors import Unavailable
from app.kernel.ports import Cache
from app.modules.routing.service.calls import Call
from app.modules.routing.service.orders import Order
from app.modules.routing.service.plans import Reply

PREFIX = "routing.answer"
ANSWER_LIMIT_BYTES = 1_048_576


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was sent; an event stream is its bytes."""

    content_type: str
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


class AnswerCache:
    """Losing any of it is never an error: a miss asks the model."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def find(self, order: Order) -> Reply | None:
        with suppress(Unavailable):
            found = await self._cache.get(key_of(order))
            if found is not None:
                with suppress(msgspec.DecodeError):
                    kept = _decode(found)
                    return Reply(200, kept.content_type, kept.body)
        return None

    async def keep(self, order: Order, content_type: str, body: bytes, *, ttl_s: int) -> None:
        if len(body) <= ANSWER_LIMIT_BYTES:
            with suppress(Unavailable):
                await self._cache.set(key_of(order), _encode(Kept(content_type, body)), ttl_s=ttl_s)

    async def keeping(
        self, call: Call, reply: Reply, pieces: AsyncIterator[bytes], ttl_s: int
    ) -> AsyncIterator[bytes]:
        """Hand ``pieces`` on, and keep them if they came to a good end."""
        kept: list[bytes] = []
        size = 0
        try:
            async for piece in pieces:
                size += len(piece)
                if size <= ANSWER_LIMIT_BYTES:
                    kept.append(piece)
                yield piece
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]  # a generator's, all of them
        if call.is_complete and size <= ANSWER_LIMIT_BYTES:
            await self.keep(call.order, reply.content_type, b"".join(kept), ttl_s=ttl_s)


def key_of(order: Order) -> str:
    """The cache's key: who asks, and a digest of what is asked, byte for byte."""
    digest = hashlib.sha256(order.surface.encode() + b"\0" + order.body).hexdigest()
    return f"{PREFIX}:{order.principal.user_id.hex}:{digest}"
