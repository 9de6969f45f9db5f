"""Calls that the tests of billing are about: their callers, claims, holds and receipts."""

from typing import Any
from uuid import UUID

from app.kernel.db import uuid7
from app.modules.auth.api import Principal
from app.modules.billing.api import Claim, Usage
from app.modules.billing.domain.limits import Bound, Budget, Period
from app.modules.billing.ports import Hold

USER, OTHER, KEY = UUID(int=1), UUID(int=2), UUID(int=3)


def usage(**changes: Any) -> Usage:
    values = {
        "id": uuid7(),
        "user_id": uuid7(),
        "credential_id": uuid7(),
        "request_id": "r",
        "model": "m",
        "upstream": "u",
        "surface": "chat/completions",
        "is_streamed": False,
        "outcome": "completed",
        "status": 200,
        "started_at_ms": 1,
        "duration_ms": 2,
    }
    return Usage(**(values | changes))


def key_of(user_id: UUID = USER, key_id: UUID = KEY, role: str = "member") -> Principal:
    return Principal(user_id, "key", key_id, role, frozenset({"full"}))


def claim(principal: Principal, tokens: int = 0, cost_nanos: int = 0) -> Claim:
    return Claim(uuid7(), principal, tokens, cost_nanos)


def used(claimed: Claim, **changes: Any) -> Usage:
    """The receipt of a claimed call."""
    who = {"user_id": claimed.principal.user_id, "credential_id": claimed.principal.credential_id}
    return usage(id=claimed.id, **(who | changes))


def hold(*bounds: Bound, tokens: int = 0, cost_nanos: int = 0) -> Hold:
    return Hold(uuid7(), tokens, cost_nanos, bounds)


def budget(nanos: int, period: Period = "total") -> tuple[Budget, ...]:
    return (Budget(nanos, period, "key"),)
