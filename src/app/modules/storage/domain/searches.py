"""What a search looks for in a collection of vectors, and what it answers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from app.modules.storage.domain.vectors import Definition


class Search(msgspec.Struct, frozen=True):
    """What to look for, in which collection. ``vector`` is float32, little-endian."""

    collection: str
    vector: bytes
    limit: int
    epoch: int | None = None
    tags: Mapping[str, str] = {}


class Shown(msgspec.Struct, frozen=True):
    """What a search answers of an item."""

    item_id: str
    collection_seq: int
    rev: int
    sha256: str
    sealed: bytes
    tags: Mapping[str, str]


class Ranked(NamedTuple):
    item: Shown
    distance: float


class Ranking(msgspec.Struct, frozen=True):
    """Nearest first; how many were compared, in which collection and epoch of it."""

    items: Sequence[Ranked]
    scanned: int
    collection: Definition
    epoch: int


class Alike(msgspec.Struct, frozen=True):
    """Items whose blob is exactly the one asked for, and the newest of the others."""

    mode: str
    equal: Sequence[Shown] = ()
    others: Sequence[Shown] = ()
