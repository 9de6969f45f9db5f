"""Upload sessions on the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from app.kernel.ports import BlobLink
from app.modules.storage.domain.backups import LARGEST, BackupWrite
from app.modules.storage.domain.conditions import Condition, condition
from app.modules.storage.domain.digests import parse_hex
from app.modules.storage.domain.records import name
from app.modules.storage.domain.uploads import (
    LEAST_PART_BYTES,
    MOST_PART_BYTES,
    BackupTarget,
    Completion,
    RecordTarget,
    Upload,
    UploadOrder,
    purpose_of,
)

Natural = Annotated[int, Meta(ge=0, le=LARGEST)]
Size = Annotated[int, Meta(ge=1, le=LARGEST)]
PartSize = Annotated[int, Meta(ge=LEAST_PART_BYTES, le=MOST_PART_BYTES)]
# What a column of 32 bits holds.
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class RecordUpload(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="target", tag="record"
):
    """A revision of a record that is to come in parts."""

    id: UUID
    table: str
    size_bytes: Size
    key_id: str | None = None
    checksum: str | None = None
    part_bytes: PartSize | None = None
    if_match: str | None = None
    if_none_match: str | None = None

    @property
    def order(self) -> UploadOrder:
        key_id = name(self.key_id) if self.key_id else self.key_id
        said = _condition(self.if_match, self.if_none_match)
        target = RecordTarget(self.id, name(self.table), key_id, said)
        return UploadOrder(target, self.size_bytes, self.part_bytes, _digest(self.checksum))


class BackupUpload(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="target", tag="backup"
):
    """A backup that is to come in parts. ``timestamp`` is the client's, in ms."""

    version: Natural
    timestamp: Natural
    size_bytes: Size
    chunk_count: Count = 1
    checksum: str | None = None
    part_bytes: PartSize | None = None

    @property
    def order(self) -> UploadOrder:
        target = BackupTarget(BackupWrite(self.version, self.timestamp, self.chunk_count))
        return UploadOrder(target, self.size_bytes, self.part_bytes, _digest(self.checksum))


UploadCreate: TypeAlias = RecordUpload | BackupUpload


class UploadComplete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said in the end. A precondition replaces the one from the beginning."""

    checksum: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None

    @property
    def completion(self) -> Completion:
        said = _condition(self.if_match, self.if_none_match)
        return Completion(_digest(self.checksum), said)


class LinkCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The SHA-256 (hex) of the one part that will be sent."""

    checksum: str


class LinkRead(msgspec.Struct, frozen=True):
    """Where to send a part, with exactly these headers. ``expires_at`` is in ms."""

    url: str
    method: Literal["PUT"]
    headers: Mapping[str, str]
    expires_at: int

    @classmethod
    def of(cls, link: BlobLink) -> "LinkRead":
        return cls(link.url, "PUT", link.headers, _milliseconds(link.expires_at))


class PartRead(msgspec.Struct, frozen=True):
    """A part that is there."""

    number: int
    size_bytes: int
    checksum: str


class UploadRead(msgspec.Struct, frozen=True):
    """A session, and which of its parts are there. ``expires_at`` is in ms."""

    id: UUID
    state: str
    target: str
    part_bytes: int
    part_count: int
    size_bytes: int
    expires_at: int
    parts: list[PartRead]

    @classmethod
    def of(cls, upload: Upload) -> "UploadRead":
        layout = upload.layout
        return cls(
            id=upload.id,
            state=upload.state,
            target=purpose_of(upload.target),
            part_bytes=layout.part_bytes,
            part_count=layout.part_count,
            size_bytes=layout.size_bytes,
            expires_at=_milliseconds(upload.expires_at),
            parts=[PartRead(one.number, one.size_bytes, one.sha256) for one in upload.parts],
        )


def _condition(if_match: str | None, if_none_match: str | None) -> Condition | None:
    """One that is not said now can still be said in the end."""
    if if_match is None and if_none_match is None:
        return None
    return condition(if_match, if_none_match)


def _digest(checksum: str | None) -> str:
    return "" if checksum is None else parse_hex(checksum)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
