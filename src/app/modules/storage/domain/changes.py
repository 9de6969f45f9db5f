"""One entry of the feed, and a page of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, TypeAlias

import msgspec

from app.kernel.errors import Invalid

Kind: TypeAlias = Literal["record", "vector"]
KINDS: Final[frozenset[str]] = frozenset({"record", "vector"})


class KindUnknown(Invalid):
    """The feed has records and vectors."""

    title = "Kind unknown"


class Change(msgspec.Struct, frozen=True):
    """What is there since its newest change, or that it was deleted then.

    ``id`` is a record's UUID or a vector's name, ``table`` a record's table or a vector's
    collection. ``etag`` is without quotes.
    """

    seq: int
    kind: Kind
    id: str
    table: str
    etag: str
    key_id: str
    size_bytes: int
    sha256: str
    is_deleted: bool
    updated_at: datetime


class ChangePage(msgspec.Struct, frozen=True):
    """In the order of ``seq``. ``cursor`` asks for what comes after it, now or later."""

    items: Sequence[Change]
    cursor: str
    has_more: bool


def parse_kinds(text: str) -> frozenset[str]:
    kinds = frozenset(text.split(",", len(KINDS)))
    if not kinds <= KINDS:
        raise KindUnknown("kinds is `record`, `vector`, or both with a comma between.")
    return kinds
