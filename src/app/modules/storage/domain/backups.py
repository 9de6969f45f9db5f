"""Backups: which version may come next, and what a reader has seen."""

from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final
from uuid import UUID

import msgspec

from app.kernel.errors import Conflict, NotFound
from app.modules.storage.domain.conditions import etag_of

# What a column of 64 bits holds.
LARGEST: Final = 2**63 - 1


class BackupVersionStale(Conflict):
    """There is, or was, a backup of this version or a later one. ``version`` is the highest."""

    title = "Backup version stale"


class NoSuchBackup(NotFound):
    """No such backup, or somebody else's."""

    title = "No such backup"


class BackupWrite(msgspec.Struct, frozen=True):
    """A backup that is to come. ``timestamp_ms`` is by the client's clock."""

    version: int
    timestamp_ms: int
    chunk_count: int = 1


class Backup(msgspec.Struct, frozen=True):
    """One backup. ``etag`` is without quotes; ``is_again``: the same request made it before."""

    id: UUID
    version: int
    timestamp_ms: int
    chunk_count: int
    size_bytes: int
    sha256: str
    created_at: datetime
    body_id: UUID
    is_again: bool = False

    @property
    def etag(self) -> str:
        return etag_of(self.version, self.sha256)


def is_repeated(write: BackupWrite, sha256: str, there: tuple[BackupWrite, str] | None) -> bool:
    """Whether the backup of this version is this very one, sent before."""
    return there is not None and there == (write, sha256)


def require_later(write: BackupWrite, highest: int | None) -> None:
    """Versions only grow, also past what was deleted."""
    if highest is not None and write.version <= highest:
        raise BackupVersionStale(
            f"Version {highest} was the latest; take a higher one, or fetch it first.",
            version=highest,
        )


def http_date(at: datetime) -> str:
    return format_datetime(at.astimezone(UTC).replace(microsecond=0), usegmt=True)


def is_unmodified(if_modified_since: str | None, at: datetime) -> bool:
    """Whether a reader's ``If-Modified-Since`` is the second of ``at``, or later."""
    if if_modified_since is None:
        return False
    try:
        since = parsedate_to_datetime(if_modified_since)
    except ValueError:
        # RFC 9110 section 13.1.3: what is no date is as if it were not there.
        return False
    if since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    return at.replace(microsecond=0) <= since
