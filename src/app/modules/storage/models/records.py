"""Records, and their earlier revisions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp


class RecordRow(Table):
    """A record as it is now, a tombstone where it is deleted. Its name is its user's and its id.

    ``base`` is the precondition that its newest change came with: ``*`` or an ETag, so that a
    change that is sent twice is known. A tombstone has no body. ``created_at`` is when the record
    was first there, ``updated_at`` when it changed last.
    """

    __tablename__ = "storage_records"
    __table_args__ = (
        Index("ix_storage_records_user_id_seq", "user_id", "seq", unique=True),
        Index("ix_storage_records_user_id_table_name_id", "user_id", "table_name", "id"),
        Index("ix_storage_records_user_id_key_id", "user_id", "key_id"),
    )

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("auth_users.id", ondelete="CASCADE"), primary_key=True, sort_order=-101
    )
    table_name: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(String(64))
    rev: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    base: Mapped[str] = mapped_column(String(40))
    is_deleted: Mapped[bool]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    body_id: Mapped[UUID | None]


class RevisionRow(Table):
    """What a record was before; kept as long as the user's tier keeps revisions."""

    __tablename__ = "storage_revisions"
    __table_args__ = (
        Index("ix_storage_revisions_user_id_record_id_rev", "user_id", "record_id", "rev"),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    record_id: Mapped[UUID]
    table_name: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(String(64))
    rev: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(BigInteger)
    is_deleted: Mapped[bool]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    body_id: Mapped[UUID | None]
    changed_at: Mapped[datetime] = mapped_column(Timestamp)
