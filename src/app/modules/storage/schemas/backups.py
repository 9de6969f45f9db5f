"""Backups on the wire."""

from uuid import UUID

import msgspec

from app.modules.storage.domain.backups import Backup


class BackupRead(msgspec.Struct, frozen=True):
    """What is known of a backup without reading it. ``timestamp`` is the client's, in ms."""

    id: UUID
    version: int
    timestamp: int
    checksum: str
    chunk_count: int
    size_bytes: int

    @classmethod
    def of(cls, backup: Backup) -> "BackupRead":
        return cls(
            id=backup.id,
            version=backup.version,
            timestamp=backup.timestamp_ms,
            checksum=backup.sha256,
            chunk_count=backup.chunk_count,
            size_bytes=backup.size_bytes,
        )
