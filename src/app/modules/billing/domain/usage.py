"""The receipt of one model call."""

from typing import Literal
from uuid import UUID

import msgspec

Outcome = Literal["completed", "failed", "abandoned"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model call. Times in milliseconds, cost in billionths of the currency's unit.

    Tokens are ``None`` when the upstream did not say; the cost is ``None`` when the tokens or the
    price are not known, which is never the same as nothing. ``is_estimated``: the tokens were
    counted here, not told by the upstream. ``is_cached``: the answer came from the response cache.
    ``is_own_key``: the call went out with the caller's own provider key.
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
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None
    cache_write_tokens: int | None = None
    is_estimated: bool = False
    is_cached: bool = False
    is_own_key: bool = False
    attempts: int = 1
    upstream_model: str = ""

    @property
    def counted_tokens(self) -> int:
        """What counts against a limit of tokens: nothing where no model was asked."""
        if self.is_cached:
            return 0
        return (self.input_tokens or 0) + (self.output_tokens or 0)
