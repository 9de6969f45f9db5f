"""What belongs to an execution of a flow, beside its run."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp, uuid7


class ExecutionRow(Table):
    """One execution. Its id is its run's, whose row says how far it is.

    ``definitions`` are the ids of what it runs, by flow: its own, and those of flows that are its
    nodes. ``order`` is what it was given, ``output`` what its exits gave, both JSON.
    ``duration_ms`` is how long it took, and ``None`` where it was stopped.
    """

    __tablename__ = "flows_executions"
    __table_args__ = (Index("ix_flows_executions_user_id_flow_id_id", "user_id", "flow_id", "id"),)

    id: Mapped[UUID] = mapped_column(
        ForeignKey("runs_runs.id", ondelete="CASCADE"),
        primary_key=True,
        default=uuid7,
        sort_order=-100,
    )
    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    flow_id: Mapped[str] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(32))
    definitions: Mapped[dict[str, Any]] = mapped_column(JSON)
    order: Mapped[bytes] = mapped_column(LargeBinary)
    output: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)
    duration_ms: Mapped[int | None] = mapped_column(default=None)


class NodeRow(Table):
    """How far one node of an execution is. ``output`` is JSON.

    ``node_id`` is a path where the node belongs to a flow that is a node itself: ``review/ask``.
    """

    __tablename__ = "flows_nodes"
    __table_args__ = (UniqueConstraint("execution_id", "node_id"),)

    execution_id: Mapped[UUID] = mapped_column(
        ForeignKey("flows_executions.id", ondelete="CASCADE")
    )
    node_id: Mapped[str] = mapped_column(String(512))
    status: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    is_cached: Mapped[bool] = mapped_column(default=False)
    output: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)
    error: Mapped[str | None] = mapped_column(default=None)
    duration_ms: Mapped[int | None] = mapped_column(default=None)
    ended_at: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
