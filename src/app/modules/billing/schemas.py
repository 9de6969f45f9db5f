"""The wire of billing."""

from uuid import UUID

import msgspec

from app.modules.billing.domain import Outcome
from app.modules.billing.models import UsageRow


class UsageRead(msgspec.Struct, frozen=True):
    """One model call: the receipt. ``cost_nanos`` is in billionths of ``currency``'s unit."""

    id: UUID
    request_id: str
    model: str
    upstream: str
    surface: str
    is_streamed: bool
    outcome: Outcome
    status: int
    started_at_ms: int
    duration_ms: int
    first_byte_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    price_version: str | None
    cost_nanos: int | None
    currency: str | None

    @classmethod
    def of(cls, row: UsageRow) -> "UsageRead":
        return cls(**{name: getattr(row, name) for name in cls.__struct_fields__})
