"""Backups."""

from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class BackupRow(Table):
    """One backup of a user. ``timestamp_ms`` is the client's clock, ``version`` what counts."""

    __tablename__ = "storage_backups"
    __table_args__ = (
        Index("ix_storage_backups_user_id_version", "user_id", "version", unique=True),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    version: Mapped[int] = mapped_column(BigInteger)
    timestamp_ms: Mapped[int] = mapped_column(BigInteger)
    chunk_count: Mapped[int]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    body_id: Mapped[UUID]
