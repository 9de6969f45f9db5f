"""Agents that users have registered."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, ForeignKey, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp


class AgentRow(Table):
    """One agent: a server that does nodes. ``token`` is sealed.

    ``may_be_private``: the installation's owner has registered it, so that it may lie in a private
    network. ``state`` is what the last look at its health found, at ``looked_at``; ``seen_at`` is
    when it last answered well. ``look_at`` is when it is looked at again.
    """

    __tablename__ = "flows_agents"
    __table_args__ = (UniqueConstraint("user_id", "agent_id"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    agent_id: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(default="")
    endpoint: Mapped[str] = mapped_column(String(2048))
    agent_type: Mapped[str] = mapped_column(String(64), default="processor")
    capabilities: Mapped[list[str]] = mapped_column(JSON)
    environment_schema: Mapped[dict[str, Any]] = mapped_column(JSON)
    configuration: Mapped[dict[str, Any]] = mapped_column(JSON)
    notes: Mapped[dict[str, Any]] = mapped_column(JSON)
    token: Mapped[bytes | None] = mapped_column(LargeBinary, default=None)
    is_active: Mapped[bool] = mapped_column(default=True)
    is_idempotent: Mapped[bool] = mapped_column(default=False)
    may_be_private: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16), default="unknown")
    seen_at: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
    looked_at: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
    look_at: Mapped[datetime] = mapped_column(Timestamp, index=True)
