"""What other modules may see of billing: the meter, which admits calls and writes them down, and
who is in which tier.
"""

from typing import Protocol
from uuid import UUID

import msgspec

from app.modules.auth.api import Principal
from app.modules.billing.domain.faults import BudgetSpent, LimitReached
from app.modules.billing.domain.limits import Tier
from app.modules.billing.domain.standings import Allowance, Remaining
from app.modules.billing.domain.usage import Outcome, Usage

__all__ = [
    "Allowance",
    "BudgetSpent",
    "Claim",
    "LimitReached",
    "Meter",
    "Outcome",
    "Remaining",
    "Tier",
    "Tiers",
    "Usage",
]


class Claim(msgspec.Struct, frozen=True):
    """What a call may use at most. ``id`` is the call's, as in its ``Usage``.

    ``tokens`` is the prompt, estimated, and the longest answer; ``cost_nanos`` the most the call
    can cost, and 0 when it is free or nobody knows.
    """

    id: UUID
    principal: Principal
    tokens: int
    cost_nanos: int


class Meter(Protocol):
    """Admits calls by what limits their caller, and keeps what they used.

    What was settled survives ``kill -9`` and is counted exactly once.
    """

    def reserve_now(self, claim: Claim) -> bool:
        """Admit the call from memory, without waiting; ``False`` when ``reserve`` must be asked.

        ``LimitReached`` or ``BudgetSpent`` when it is not admitted.
        """
        ...

    async def reserve(self, claim: Claim) -> None:
        """Admit the call, or raise as ``reserve_now``; ``Unavailable`` when nobody can tell."""
        ...

    def settle(self, usage: Usage) -> None:
        """Keep ``usage`` before the caller sends the last byte of its answer, and turn the claim
        of the same id, if there is one, into what was really used. Never waits.
        """
        ...

    def release(self, call_id: UUID) -> None:
        """Give back the claim of a call that leaves no usage. Unknown ids are fine."""
        ...

    def remaining(self, principal: Principal) -> Remaining | None:
        """What the caller's limits leave, from memory; ``None`` for who is not limited."""
        ...


class Tiers(Protocol):
    """Who is in which tier."""

    async def tier_of(self, principal: Principal) -> Tier | None:
        """The caller's tier; ``None`` for an owner, whom no tier limits."""
        ...

    async def own(self, principal: Principal) -> tuple[Tier | None, list[Allowance]]:
        """The caller's tier, and what each of their limits leaves at this moment."""
        ...
