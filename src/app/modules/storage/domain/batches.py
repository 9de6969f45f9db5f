"""What a batch asks for, and what has come of it."""

from typing import Literal, TypeAlias
from uuid import UUID

import msgspec

Verb: TypeAlias = Literal["put", "delete", "check"]


class Contents(msgspec.Struct, frozen=True):
    """What a put writes. ``checksum`` is the blob's SHA-256 as the client says it, in hex."""

    blob: bytes
    checksum: str
    table: str | None = None
    key_id: str | None = None


class Operation(msgspec.Struct, frozen=True):
    """One of a batch: a put has contents. The preconditions are as in the headers of one alone."""

    verb: Verb
    record_id: UUID
    if_match: str | None = None
    if_none_match: str | None = None
    contents: Contents | None = None


class Done(msgspec.Struct, frozen=True):
    """What one has come to. A check of what is not there has no ETag (unquoted) and no number."""

    verb: Verb
    record_id: UUID
    etag: str | None = None
    seq: int | None = None
    is_new: bool = False
