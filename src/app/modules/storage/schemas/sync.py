"""The feed, batches, keys and usage on the wire. ETags are quoted, as in the header."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.modules.storage.domain.batches import Contents, Done, Operation
from app.modules.storage.domain.changes import Change, ChangePage, Kind
from app.modules.storage.domain.conditions import quoted
from app.modules.storage.domain.keys import SealingKey, Standing
from app.modules.storage.schemas.records import Name, milliseconds

OPERATIONS_LIMIT: Final = 100


class ChangeRead(msgspec.Struct, frozen=True):
    """A record or a vector since its newest change, or that it was deleted then."""

    seq: int
    kind: Kind
    id: str
    table: str
    etag: str
    key_id: str
    size_bytes: int
    checksum: str
    is_deleted: bool
    updated_at: int


class ChangeList(msgspec.Struct, frozen=True):
    """In the order of ``seq``. ``cursor`` asks for what comes after, now or later."""

    items: list[ChangeRead]
    cursor: str
    has_more: bool

    @classmethod
    def of(cls, page: ChangePage) -> "ChangeList":
        return cls([_change(change) for change in page.items], page.cursor, page.has_more)


class PutOperation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="put"
):
    """Creates or replaces a record. ``blob`` is base64."""

    id: UUID
    blob: bytes
    checksum: str
    table: Name | None = None
    key_id: Name | None = None
    if_match: str | None = None
    if_none_match: str | None = None

    @property
    def operation(self) -> Operation:
        contents = Contents(self.blob, self.checksum, self.table, self.key_id)
        return Operation("put", self.id, self.if_match, self.if_none_match, contents)


class DeleteOperation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"
):
    """Leaves a tombstone."""

    id: UUID
    if_match: str | None = None

    @property
    def operation(self) -> Operation:
        return Operation("delete", self.id, self.if_match)


class CheckOperation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="check"
):
    """Changes nothing, and has the batch refused where the record is not what it is taken for."""

    id: UUID
    if_match: str | None = None
    if_none_match: str | None = None

    @property
    def operation(self) -> Operation:
        return Operation("check", self.id, self.if_match, self.if_none_match)


AnyOperation: TypeAlias = PutOperation | DeleteOperation | CheckOperation


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it is done, or nothing."""

    operations: Annotated[list[AnyOperation], Meta(min_length=1, max_length=OPERATIONS_LIMIT)]

    def __post_init__(self) -> None:
        if len({one.id for one in self.operations}) < len(self.operations):
            raise ValueError("each operation is on another record")


class OperationResult(msgspec.Struct, frozen=True):
    """``status`` is what the operation alone would have answered."""

    id: UUID
    status: int
    etag: str | None
    seq: int | None

    @classmethod
    def of(cls, done: Done) -> "OperationResult":
        status = {"put": 201 if done.is_new else 200, "delete": 204, "check": 200}[done.verb]
        etag = None if done.etag is None else quoted(done.etag)
        return cls(done.record_id, status, etag, done.seq)


class BatchResult(msgspec.Struct, frozen=True):
    """In the order of the operations."""

    results: list[OperationResult]


class OperationError(msgspec.Struct, frozen=True):
    """Why one operation was refused. ``etag`` is the record's current one, if that is why."""

    index: int
    id: UUID
    status: int
    type: str
    detail: str
    etag: str | UnsetType = UNSET


class KeyRead(msgspec.Struct, frozen=True):
    """A key, the live records that it seals, and their bytes."""

    key_id: str
    records: int
    bytes: int
    is_retired: bool


class KeyList(msgspec.Struct, frozen=True):
    """By their names."""

    items: list[KeyRead]

    @classmethod
    def of(cls, keys: Sequence[SealingKey]) -> "KeyList":
        return cls([KeyRead(k.key_id, k.records, k.size_bytes, k.is_retired) for k in keys])


class UsageRead(msgspec.Struct, frozen=True):
    """Bytes that are kept, and on their way in. ``null`` does not limit.

    ``versions`` is how many earlier revisions of a record are kept.
    """

    used_bytes: int
    reserved_bytes: int
    quota_bytes: int | None
    backup_used_bytes: int
    backup_reserved_bytes: int
    backup_quota_bytes: int | None
    versions: int
    max_object_bytes: int

    @classmethod
    def of(cls, standing: Standing, max_object_bytes: int) -> "UsageRead":
        return cls(
            standing.records.used_bytes,
            standing.records.reserved_bytes,
            standing.allowance.record_bytes,
            standing.backups.used_bytes,
            standing.backups.reserved_bytes,
            standing.allowance.backup_bytes,
            standing.allowance.revisions,
            max_object_bytes,
        )


def _change(change: Change) -> ChangeRead:
    return ChangeRead(
        change.seq,
        change.kind,
        change.id,
        change.table,
        quoted(change.etag),
        change.key_id,
        change.size_bytes,
        change.sha256,
        change.is_deleted,
        milliseconds(change.updated_at),
    )
