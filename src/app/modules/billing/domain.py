"""Value types of billing."""

from typing import Literal
from uuid import UUID

import msgspec

Outcome = Literal["completed", "failed", "abandoned"]


class Usage(msgspec.Struct, frozen=True):
    """One model call. Times in milliseconds, cost in billionths of the currency's unit.

    Tokens are ``None`` when the upstream did not say; the cost is ``None`` when the tokens or the
    price are not known, which is never the same as nothing.
    """

    id: UUID
    user_id: UUID
    credential_id: UUID
    request_id: str
    model: str
    upstream: str
    surface: str
    is_streamed: bool
    outcome: Outcome
    status: int
    started_at_ms: int
    duration_ms: int
    first_byte_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    price_version: str | None = None
    cost_nanos: int | None = None
    currency: str | None = None
