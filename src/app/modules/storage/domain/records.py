"""A record at one of its revisions, and the names that a client gives."""

import re
from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from app.kernel.errors import Conflict, Invalid, NotFound
from app.modules.storage.domain.conditions import State, etag_of

# Tables and keys. Both may be opaque: the server sees them.
NAME: Final = r"^[A-Za-z0-9._-]{1,64}$"
# What a tombstone has in place of a digest, so that it has an ETag.
NO_SHA256: Final = "0" * 64
MOST_REV: Final = 10**18
_NAME: Final = re.compile(NAME[1:-1])
_VERSION: Final = re.compile(r"([0-9]{1,18})-[0-9a-f]{8}")


class NameMalformed(Invalid):
    """Names of tables and keys are 1 to 64 letters, digits, dots, underscores and hyphens."""

    title = "Name malformed"


class TableMissing(Invalid):
    """A new record is of some table."""

    title = "Table missing"


class KeyRetired(Conflict):
    """The client has declared that this key seals nothing any more."""

    title = "Key retired"


class VersionMalformed(Invalid):
    """A revision is named by its ETag or by its number."""

    title = "Version malformed"


class NoSuchRevision(NotFound):
    """The record never had this revision, or has it no more, or it was a deletion."""

    title = "No such revision"


class Revision(msgspec.Struct, frozen=True):
    """A record as it is or was. A tombstone has no body; ``base`` is of the current one only."""

    record_id: UUID
    table: str
    key_id: str
    rev: int
    seq: int
    is_deleted: bool
    size_bytes: int
    sha256: str
    body_id: UUID | None
    created_at: datetime
    updated_at: datetime
    base: str = ""

    @property
    def etag(self) -> str:
        """Without the quotes."""
        return etag_of(self.rev, self.sha256)

    @property
    def content(self) -> tuple[str, str, str]:
        """What a change has written, as ``decide`` compares it."""
        return (self.sha256, self.table, self.key_id)

    @property
    def state(self) -> State:
        return State(self.etag, self.base, self.is_deleted, self.content)


def state_of(current: Revision | None) -> State | None:
    return None if current is None else current.state


def name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise NameMalformed(
            "Tables and keys are named by 1 to 64 letters, digits, dots, underscores and hyphens."
        )
    return text


def refuse_retired(key_id: str, retired: Collection[str]) -> None:
    if key_id in retired:
        raise KeyRetired(f"The key {key_id!r} is retired: seal with another one.", key_id=key_id)


class Pick(msgspec.Struct, frozen=True):
    """One revision of a record, by its number and, where that is known, its ETag."""

    rev: int
    etag: str = ""

    def fits(self, revision: Revision) -> bool:
        is_meant = revision.rev == self.rev and self.etag in {"", revision.etag}
        return is_meant and not revision.is_deleted


def pick(version: str | None, rev: int | None) -> Pick | None:
    """Which revision a reader wants; ``None`` for the record as it is."""
    if version is None:
        return None if rev is None else Pick(rev)
    found = _VERSION.fullmatch(version)
    if found is None or rev is not None:
        raise VersionMalformed("version is an ETag without its quotes; or give rev, a number.")
    return Pick(int(found[1]), version)


class Written(msgspec.Struct, frozen=True):
    """What a change has come to. ``is_again``: it was made before, by the same request."""

    record_id: UUID
    table: str
    key_id: str
    rev: int
    etag: str
    seq: int
    size_bytes: int
    sha256: str
    created_ms: int
    updated_ms: int
    is_new: bool
    is_again: bool
