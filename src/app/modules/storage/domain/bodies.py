"""A body: its bytes, and the parts they lie in."""

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import msgspec

from app.modules.storage.domain.allowances import Purpose

OPEN: Final = "open"
KEPT: Final = "kept"
DOOMED: Final = "doomed"


class Draft(msgspec.Struct, frozen=True):
    """Bytes that have come in whole and are verified, and belong to nothing yet.

    ``inline`` has those of a small one, which are nowhere else; the others lie in the blob store,
    their room is reserved, and they are swept away unless they are kept.
    """

    id: UUID
    user_id: UUID
    purpose: Purpose
    size_bytes: int
    sha256: str
    inline: bytes | None = None


class Part(msgspec.Struct, frozen=True):
    """One blob of a body."""

    id: UUID
    number: int
    size_bytes: int
    sha256: str


class Slice(msgspec.Struct, frozen=True):
    """Bytes ``start`` up to, not including, ``end`` of one part."""

    part: Part
    start: int
    end: int


def blob_key(user_id: UUID, part_id: UUID) -> str:
    """Opaque: neither a table nor a record shows in it."""
    return f"storage/{user_id.hex}/{part_id.hex}"


def slices(parts: Sequence[Part], start: int, end: int) -> Iterator[Slice]:
    """Which bytes of which parts make up ``start`` to ``end`` of the whole."""
    offset = 0
    for part in sorted(parts, key=lambda one: one.number):
        begins, ends = max(start - offset, 0), min(end - offset, part.size_bytes)
        if begins < ends:
            yield Slice(part, begins, ends)
        offset += part.size_bytes
