"""The bytes of records and backups, and where they lie."""

from uuid import UUID

from sqlalchemy import BigInteger, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class BodyRow(Table):
    """The bytes of one revision or backup.

    ``open`` while they come in, ``kept`` from the commit that shows them on, ``doomed`` when
    nobody needs them any more; then they are removed from the blob store, and the row with them.
    A small body lies in ``inline``, any other in its parts, in the order of their numbers.
    ``updated_at`` of an open one tells that its process lives. There is no foreign key: bytes
    outlive their owner's row until they are removed.
    """

    __tablename__ = "storage_bodies"
    __table_args__ = (Index("ix_storage_bodies_state_updated_at", "state", "updated_at"),)

    user_id: Mapped[UUID]
    purpose: Mapped[str] = mapped_column(String(8))
    state: Mapped[str] = mapped_column(String(8))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), default="")
    inline: Mapped[bytes | None] = mapped_column(LargeBinary, default=None, deferred=True)


class PartRow(Table):
    """One blob of a body, written before its bytes are, so that none can be lost sight of.

    ``open`` while its bytes come in, ``kept``, then ``doomed``. A part that is sent again is a new
    row; the old one is doomed.
    """

    __tablename__ = "storage_parts"
    __table_args__ = (
        Index("ix_storage_parts_body_id_number", "body_id", "number"),
        Index("ix_storage_parts_state_updated_at", "state", "updated_at"),
    )

    user_id: Mapped[UUID]
    body_id: Mapped[UUID]
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(8))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), default="")
