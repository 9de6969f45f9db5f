"""What flows are made of, version by version."""

from uuid import UUID

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class FlowRow(Table):
    """A flow that a user has made. ``definition_id`` is its newest version's.

    One that was deleted is not ``is_active``: its versions stay for the executions that ran them.
    """

    __tablename__ = "flows_flows"
    __table_args__ = (UniqueConstraint("user_id", "flow_id"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    flow_id: Mapped[str] = mapped_column(String(100))
    definition_id: Mapped[UUID]
    is_active: Mapped[bool] = mapped_column(default=True)


class DefinitionRow(Table):
    """One version of a flow, written once. ``body`` is its document, as JSON.

    Its id is made from what it says, so that nobody writes the same twice. ``user_id`` is ``None``
    for a flow of the installation.
    """

    __tablename__ = "flows_definitions"
    __table_args__ = (Index("ix_flows_definitions_user_id_flow_id", "user_id", "flow_id"),)

    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    flow_id: Mapped[str] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(32))
    body: Mapped[bytes] = mapped_column(LargeBinary)
