"""The wire of billing."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app.modules.billing.domain.limits import NO_LIMIT, Limits, Period, SubjectKind, Tier
from app.modules.billing.domain.reports import UsageSum, csv_line, money
from app.modules.billing.domain.standings import Allowance
from app.modules.billing.domain.usage import Outcome
from app.modules.billing.models import UsageRow

Amount = Annotated[int, Meta(ge=0, lt=NO_LIMIT)]


class UsageRead(msgspec.Struct, frozen=True):
    """One model call: the receipt. ``cost_nanos`` is in billionths of ``currency``'s unit."""

    id: UUID
    credential_id: UUID
    request_id: str
    model: str
    upstream: str
    upstream_model: str
    surface: str
    is_streamed: bool
    outcome: Outcome
    status: int
    attempts: int
    started_at_ms: int
    duration_ms: int
    first_byte_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    audio_input_tokens: int | None
    audio_output_tokens: int | None
    is_estimated: bool
    is_cached: bool
    is_own_key: bool
    price_version: str | None
    cost_nanos: int | None
    currency: str | None

    @classmethod
    def of(cls, row: UsageRow) -> "UsageRead":
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})


class UsageSumRead(UsageSum, frozen=True):
    """Calls of one day, model or key, and what they add up to.

    ``costs_nanos`` is in billionths of each currency's unit. ``unpriced_calls`` have tokens and no
    price: their cost is not nothing, it is not known.
    """

    @classmethod
    def of(cls, found: UsageSum) -> "UsageSumRead":
        return cls(**msgspec.structs.asdict(found))


class AllowanceRead(Allowance, frozen=True):
    """One limit: ``left`` of ``limit`` requests, tokens or calls, or nanos of ``period``."""

    @classmethod
    def of(cls, found: Allowance) -> "AllowanceRead":
        return cls(**msgspec.structs.asdict(found))


class AllowancesRead(msgspec.Struct, frozen=True):
    """What the caller may use. No ``tier`` limits an owner; no limit is left out of the list."""

    tier: Tier | None
    limits: list[AllowanceRead]

    @classmethod
    def of(cls, tier: Tier | None, found: Sequence[Allowance]) -> "AllowancesRead":
        return cls(tier, [AllowanceRead.of(one) for one in found])


class LimitsPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests and tokens in any minute, calls at once, and nanos in a period.

    What is left out, or ``null``, does not limit.
    """

    rpm: Amount | None = None
    tpm: Amount | None = None
    parallel: Amount | None = None
    budget_nanos: Amount | None = None
    budget_period: Period = "month"

    def limits(self) -> Limits:
        return Limits(**msgspec.structs.asdict(self))


class LimitsRead(msgspec.Struct, frozen=True):
    """The own limits of a key or a user."""

    kind: SubjectKind
    id: UUID
    rpm: int | None
    tpm: int | None
    parallel: int | None
    budget_nanos: int | None
    budget_period: Period

    @classmethod
    def of(cls, kind: SubjectKind, subject_id: UUID, limits: Limits) -> "LimitsRead":
        return cls(kind, subject_id, **msgspec.structs.asdict(limits))


class AccountPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tier: Tier


class AccountRead(msgspec.Struct, frozen=True):
    user_id: UUID
    tier: Tier


ROW_HEAD = csv_line(UsageRead.__struct_fields__)
SUM_HEAD = csv_line(UsageSumRead.__struct_fields__)


def row_lines(rows: Sequence[UsageRow]) -> str:
    """Rows as CSV, in the order of ``UsageRead``; nothing where a value is not known."""
    return "".join(csv_line(msgspec.structs.astuple(UsageRead.of(row))) for row in rows)


def sum_lines(sums: Sequence[UsageSum]) -> str:
    """Sums as CSV; the costs of all currencies in the last cell."""
    return "".join(
        csv_line((*msgspec.structs.astuple(one)[:-1], money(one.costs_nanos))) for one in sums
    )
