"""What belongs to an execution, beside its run."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp, uuid7


class ExecutionRow(Table):
    """One execution. Its id is its run's, whose row says how far it is.

    ``request`` is the script and what it was given, as JSON; it is dropped when the execution has
    ended. ``outcome`` is what it left, ``question`` what it asks while it is paused, both JSON.
    ``is_queued``: the script waits for a worker, and has not begun. ``completed_at`` is when its
    worker was done, ``None`` where none was; then its run knows when it ended.
    """

    __tablename__ = "sandbox_executions"
    __table_args__ = (Index("ix_sandbox_executions_user_id_id", "user_id", "id"),)

    id: Mapped[UUID] = mapped_column(
        ForeignKey("runs_runs.id", ondelete="CASCADE"),
        primary_key=True,
        default=uuid7,
        sort_order=-100,
    )
    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    project: Mapped[str] = mapped_column(String(64))
    is_queued: Mapped[bool] = mapped_column(default=False)
    request: Mapped[bytes | None] = mapped_column(LargeBinary)
    question: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)
    outcome: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)
    completed_at: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
