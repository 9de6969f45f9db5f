"""What storage needs from outside, beside the blob store."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

import msgspec


class Hit(msgspec.Struct, frozen=True):
    """One vector that a search found, as it was at its collection's ``seq``.

    ``distance`` is 1 less the cosine: 0 the same direction, 2 the opposite one.
    """

    item_id: str
    seq: int
    distance: float


class VectorQuery(msgspec.Struct, frozen=True):
    """What to look for in one collection, of which ``seq`` changes are committed.

    ``vector`` is float32, little-endian, and has a length. Only items of ``epoch`` that have all
    of ``tags`` are ranked. ``count`` is how many vectors there are, about.
    """

    collection_id: UUID
    dimension: int
    seq: int
    count: int
    epoch: int
    vector: bytes
    limit: int
    tags: Mapping[str, str] = {}


class Found(msgspec.Struct, frozen=True):
    """Nearest first, ties by id; and how many vectors were compared."""

    hits: Sequence[Hit]
    scanned: int


class VectorIndex(Protocol):
    """Ranks the vectors of a collection by cosine. The table of vectors is the truth."""

    async def search(self, query: VectorQuery) -> Found:
        """See at least what was committed up to the collection's ``seq``."""
        ...

    async def forget(self, collection_id: UUID) -> None:
        """Remove what is kept beside the table."""
        ...

    async def tidy(self) -> None:
        """Remove what is kept of collections that are no longer there."""
        ...

    async def close(self) -> None: ...
