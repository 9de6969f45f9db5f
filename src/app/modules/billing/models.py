"""Tables of billing."""

from uuid import UUID

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class UsageRow(Table):
    """One model call, as ``api.Usage`` describes it. ``id`` is the call's, so twice is once."""

    __tablename__ = "billing_usage"
    __table_args__ = (Index("ix_billing_usage_user_id_id", "user_id", "id"),)

    user_id: Mapped[UUID]
    credential_id: Mapped[UUID]
    request_id: Mapped[str]
    model: Mapped[str]
    upstream: Mapped[str]
    surface: Mapped[str]
    is_streamed: Mapped[bool]
    outcome: Mapped[str]
    status: Mapped[int]
    started_at_ms: Mapped[int] = mapped_column(BigInteger)
    duration_ms: Mapped[int] = mapped_column(BigInteger)
    first_byte_ms: Mapped[int | None] = mapped_column(BigInteger)
    input_tokens: Mapped[int | None] = mapped_column(BigInteger)
    output_tokens: Mapped[int | None] = mapped_column(BigInteger)
    cached_tokens: Mapped[int | None] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int | None] = mapped_column(BigInteger)
    price_version: Mapped[str | None]
    cost_nanos: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
