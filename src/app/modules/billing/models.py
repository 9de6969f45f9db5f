"""Tables of billing."""

from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table
from app.modules.billing.domain.limits import Period, SubjectKind, Tier


class UsageRow(Table):
    """One model call, as ``api.Usage`` describes it. ``id`` is the call's, so twice is once."""

    __tablename__ = "billing_usage"
    __table_args__ = (
        Index("ix_billing_usage_user_id_id", "user_id", "id"),
        Index("ix_billing_usage_credential_id_id", "credential_id", "id"),
    )

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
    audio_input_tokens: Mapped[int | None] = mapped_column(BigInteger)
    audio_output_tokens: Mapped[int | None] = mapped_column(BigInteger)
    cache_write_tokens: Mapped[int | None] = mapped_column(BigInteger)
    is_estimated: Mapped[bool] = mapped_column(default=False)
    is_cached: Mapped[bool] = mapped_column(default=False)
    is_own_key: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=1)
    upstream_model: Mapped[str] = mapped_column(default="")


class AccountRow(Table):
    """What a user has: no row is the tier ``free``."""

    __tablename__ = "billing_accounts"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("auth_users.id", ondelete="CASCADE"), unique=True
    )
    tier: Mapped[Tier] = mapped_column(String(16))


class LimitsRow(Table):
    """The own limits of a key or a user. ``None`` does not limit."""

    __tablename__ = "billing_limits"
    __table_args__ = (UniqueConstraint("subject_kind", "subject_id"),)

    subject_kind: Mapped[SubjectKind] = mapped_column(String(8))
    subject_id: Mapped[UUID]
    rpm: Mapped[int | None] = mapped_column(BigInteger)
    tpm: Mapped[int | None] = mapped_column(BigInteger)
    parallel: Mapped[int | None] = mapped_column(BigInteger)
    budget_nanos: Mapped[int | None] = mapped_column(BigInteger)
    budget_period: Mapped[Period] = mapped_column(String(8))


class SpentRow(Table):
    """What the usage rows of one subject cost, kept in the transactions that store them.

    A subject has one from its first budget on. ``version`` counts those transactions, so that
    whoever knows a version knows which rows are in it. ``month`` and ``day`` are the newest that
    a row fell in, as ``domain.periods`` counts them.
    """

    __tablename__ = "billing_spent"

    subject: Mapped[str] = mapped_column(String(40), unique=True)
    version: Mapped[int] = mapped_column(BigInteger)
    total_nanos: Mapped[int] = mapped_column(BigInteger)
    month: Mapped[int]
    month_nanos: Mapped[int] = mapped_column(BigInteger)
    day: Mapped[int]
    day_nanos: Mapped[int] = mapped_column(BigInteger)
