"""Tables of runs."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp
from app.modules.runs.domain import Status


class RunRow(Table):
    """One run. ``fence`` counts its claims: who holds an older one writes nothing more.

    ``last_seq`` is the last event's; ``question_seq`` that of the question it waits for an answer
    to. ``lease_until`` and ``worker`` are ``None`` while no process has it.
    """

    __tablename__ = "runs_runs"
    __table_args__ = (
        Index("ix_runs_runs_user_id_id", "user_id", "id"),
        Index("ix_runs_runs_status_lease_until", "status", "lease_until"),
        UniqueConstraint("user_id", "kind", "idempotency_key"),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(String(200))
    status: Mapped[Status] = mapped_column(String(16))
    last_seq: Mapped[int] = mapped_column(BigInteger)
    fence: Mapped[int] = mapped_column(default=0)
    question_seq: Mapped[int | None] = mapped_column(BigInteger, default=None)
    worker: Mapped[str | None] = mapped_column(String(32), default=None)
    lease_until: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), default=None)
    digest: Mapped[str] = mapped_column(String(64), default="")
    started_at: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
    ended_at: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
    error_code: Mapped[str] = mapped_column(String(64), default="")
    error: Mapped[str] = mapped_column(default="")


class EventRow(Table):
    """One entry of a run's log, written once."""

    __tablename__ = "runs_events"
    __table_args__ = (UniqueConstraint("run_id", "seq"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs_runs.id", ondelete="CASCADE"))
    seq: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(String(64))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
