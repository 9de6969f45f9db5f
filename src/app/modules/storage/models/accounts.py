"""What a user has in the store, in numbers."""

from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, uuid7


class AccountRow(Table):
    """One user's sums. Its id is the user's; whoever writes locks this row first.

    ``seq`` numbers the user's changes in the order of their commits, without a gap. ``epoch``
    names this numbering: a cursor of another one is void. Whoever knows less than ``floor_seq``
    has missed tombstones that are gone. Bytes are of bodies that are kept, and of those on their
    way in. ``backup_version`` is the highest version ever, and stays when that backup is deleted.
    """

    __tablename__ = "storage_accounts"

    id: Mapped[UUID] = mapped_column(
        ForeignKey("auth_users.id", ondelete="CASCADE"), primary_key=True, sort_order=-100
    )
    epoch: Mapped[str] = mapped_column(String(32))
    seq: Mapped[int] = mapped_column(BigInteger, default=0)
    floor_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    record_reserved_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    backup_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    backup_reserved_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    backup_version: Mapped[int | None] = mapped_column(BigInteger, default=None)


class KeyRow(Table):
    """A key of the client's that may seal nothing any more."""

    __tablename__ = "storage_retired_keys"

    id: Mapped[UUID] = mapped_column(default=uuid7, sort_order=-100)
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("auth_users.id", ondelete="CASCADE"), primary_key=True
    )
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
