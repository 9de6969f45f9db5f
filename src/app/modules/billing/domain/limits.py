"""Tiers, the limits of keys and users, and what they come to for one call."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias
from uuid import UUID

import msgspec

Tier = Literal["free", "pro", "power", "team"]
Period = Literal["day", "month", "total"]
SubjectKind = Literal["key", "user"]
Holder = Literal["key", "user", "tier"]

# The largest whole number that a double holds exactly, which is what Redis' scripts count with.
NO_LIMIT: Final = 1 << 53
UNIT_NANOS: Final = 1_000_000_000


class Limits(msgspec.Struct, frozen=True):
    """Requests and tokens in any minute, calls at once, and money in a period.

    ``None`` does not limit. A budget counts billionths of the currency that the prices are in.
    """

    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    budget_nanos: int | None = None
    budget_period: Period = "month"


# The limits of a tier are each user's: in a team, each seat's.
TIERS: Final[Mapping[Tier, Limits]] = {
    "free": Limits(20, 100_000, 4, 1 * UNIT_NANOS),
    "pro": Limits(60, 400_000, 16, 20 * UNIT_NANOS),
    "power": Limits(120, 1_000_000, 32, 100 * UNIT_NANOS),
    "team": Limits(200, 2_000_000, 64, 200 * UNIT_NANOS),
}
DEFAULT_TIER: Final[Tier] = "free"


class Budget(msgspec.Struct, frozen=True):
    nanos: int
    period: Period
    holder: Holder


class Bound(msgspec.Struct, frozen=True):
    """What limits one subject of a call, from whichever holder is the strictest."""

    subject: str
    rpm: int = NO_LIMIT
    tpm: int = NO_LIMIT
    parallel: int = NO_LIMIT
    budgets: tuple[Budget, ...] = ()
    rpm_holder: Holder = "user"
    tpm_holder: Holder = "user"
    parallel_holder: Holder = "user"


Bounds: TypeAlias = tuple[Bound, ...]


def subject_of(kind: SubjectKind, subject_id: UUID) -> str:
    """Name a subject as counters and tables do."""
    return f"{kind}:{subject_id.hex}"


def bounds_of(
    user_id: UUID,
    key_id: UUID | None,
    tier: Tier | None,
    own: Mapping[tuple[SubjectKind, UUID], Limits],
) -> Bounds:
    """What limits a caller: its key, and its user, who is limited by a tier beside own limits.

    ``tier`` is ``None`` for an owner, whom no tier limits. Nothing at all is an empty tuple.
    """
    found = []
    if key_id is not None and (key := own.get(("key", key_id))) is not None:
        found.append(_bound(subject_of("key", key_id), [("key", key)]))
    users: list[tuple[Holder, Limits]] = []
    if (user := own.get(("user", user_id))) is not None:
        users.append(("user", user))
    if tier is not None:
        users.append(("tier", TIERS[tier]))
    found.append(_bound(subject_of("user", user_id), users))
    return tuple(bound for bound in found if bound != Bound(bound.subject))


def _bound(subject: str, held: Sequence[tuple[Holder, Limits]]) -> Bound:
    rpm, rpm_holder = _strictest([(limits.rpm, holder) for holder, limits in held])
    tpm, tpm_holder = _strictest([(limits.tpm, holder) for holder, limits in held])
    parallel, parallel_holder = _strictest([(limits.parallel, holder) for holder, limits in held])
    budgets = tuple(
        Budget(limits.budget_nanos, limits.budget_period, holder)
        for holder, limits in held
        if limits.budget_nanos is not None
    )
    return Bound(subject, rpm, tpm, parallel, budgets, rpm_holder, tpm_holder, parallel_holder)


def _strictest(given: Sequence[tuple[int | None, Holder]]) -> tuple[int, Holder]:
    limits = [(limit, holder) for limit, holder in given if limit is not None]
    return min(limits, key=lambda one: one[0], default=(NO_LIMIT, "user"))
