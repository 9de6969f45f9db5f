"""Upload sessions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp


class UploadRow(Table):
    """A large body that comes in parts. Its id is the body's.

    ``open``, then ``committed``, ``aborted`` or ``expired``. ``target`` is what it becomes, as
    JSON: the record or backup, and the precondition. ``result`` is what the commit answered, as
    JSON, for whoever asks again.
    """

    __tablename__ = "storage_uploads"
    __table_args__ = (Index("ix_storage_uploads_state_expires_at", "state", "expires_at"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(9))
    target: Mapped[bytes] = mapped_column(LargeBinary)
    result: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    part_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime] = mapped_column(Timestamp)
