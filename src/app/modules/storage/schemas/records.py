"""Records on the wire. Times are integer milliseconds, ETags as in the header, quotes included."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app.modules.storage.domain.conditions import quoted
from app.modules.storage.domain.records import MOST_REV, NAME, Revision, Written

Name = Annotated[str, Meta(pattern=NAME)]


class RecordCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new record; its id is made where none is given. ``blob`` is base64."""

    table: Name
    blob: bytes
    checksum: str
    key_id: Name | None = None
    id: UUID | None = None


class RecordPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form of a raw body and its headers."""

    blob: bytes
    checksum: str
    table: Name | None = None
    key_id: Name | None = None


class RecordRestore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which revision to make the newest one."""

    rev: Annotated[int, Meta(ge=1, le=MOST_REV)]


class RecordRead(msgspec.Struct, frozen=True):
    """A record without its bytes. ``checksum`` is their SHA-256 in hex."""

    id: UUID
    table: str
    key_id: str
    etag: str
    seq: int
    size_bytes: int
    checksum: str
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, revision: Revision) -> "RecordRead":
        return cls(
            revision.record_id,
            revision.table,
            revision.key_id,
            quoted(revision.etag),
            revision.seq,
            revision.size_bytes,
            revision.sha256,
            milliseconds(revision.created_at),
            milliseconds(revision.updated_at),
        )

    @classmethod
    def of_written(cls, written: Written) -> "RecordRead":
        return cls(
            written.record_id,
            written.table,
            written.key_id,
            quoted(written.etag),
            written.seq,
            written.size_bytes,
            written.sha256,
            written.created_ms,
            written.updated_ms,
        )


class RecordWhole(RecordRead, frozen=True, kw_only=True):
    """A record and its bytes, as base64."""

    blob: bytes


class RecordBrief(msgspec.Struct, frozen=True):
    """One of a numbered page."""

    id: UUID
    table: str
    checksum: str
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, revision: Revision) -> "RecordBrief":
        return cls(
            revision.record_id,
            revision.table,
            revision.sha256,
            milliseconds(revision.created_at),
            milliseconds(revision.updated_at),
        )


class VersionRead(msgspec.Struct, frozen=True):
    """One revision. A deletion is one too, and has no bytes."""

    etag: str
    rev: int
    seq: int
    size_bytes: int
    checksum: str
    key_id: str
    is_deleted: bool
    created_at: int


class VersionList(msgspec.Struct, frozen=True):
    """Newest first, the current one among them."""

    items: list[VersionRead]

    @classmethod
    def of(cls, revisions: Sequence[Revision]) -> "VersionList":
        return cls([_version(revision) for revision in revisions])


def _version(revision: Revision) -> VersionRead:
    return VersionRead(
        quoted(revision.etag),
        revision.rev,
        revision.seq,
        revision.size_bytes,
        revision.sha256,
        revision.key_id,
        revision.is_deleted,
        milliseconds(revision.updated_at),
    )


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
