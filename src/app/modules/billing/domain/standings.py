"""Where a caller stands, and what each of its limits leaves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from app.modules.billing.domain.limits import NO_LIMIT, Bound, Bounds, Holder, Period
from app.modules.billing.domain.periods import ends_at_ms

LimitName = Literal["rpm", "tpm", "parallel", "budget"]

# What is left, of how much, and until when it is whole again.
NOT_LIMITED: Final = (NO_LIMIT, NO_LIMIT, 0.0)


class Standing(msgspec.Struct, frozen=True):
    """Where a subject stands: its last minute, what it holds, and what it has spent.

    ``held_nanos`` is money of running calls, and of rows that are not stored yet; ``spent_nanos``
    is by period. ``reset_s`` is when the minute is empty if nothing more comes.
    """

    requests: int = 0
    tokens: int = 0
    running: int = 0
    held_nanos: int = 0
    reset_s: float = 0.0
    spent_nanos: Mapping[Period, int] = {}


class Remaining(msgspec.Struct, frozen=True):
    """What the tightest of a caller's limits leaves in this minute; ``None`` where none limits.

    ``reset_requests_s`` and ``reset_tokens_s`` are seconds until that limit is whole again.
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_s: float = 0.0
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float = 0.0


class Allowance(msgspec.Struct, frozen=True):
    """One limit: how much there is, how much is left, and when it is whole again.

    Requests, tokens, calls, or nanos of ``period``. ``resets_at_ms`` is ``None`` when no moment is
    known.
    """

    name: LimitName
    holder: Holder
    limit: int
    left: int
    resets_at_ms: int | None
    period: Period | None = None


def allowances_of(bounds: Bounds, standings: Sequence[Standing], now_ms: int) -> list[Allowance]:
    """Every limit of a caller, each by the strictest who holds it."""
    pairs = zip(bounds, standings, strict=True)
    return [one for bound, standing in pairs for one in _allowances(bound, standing, now_ms)]


class Use(NamedTuple):
    """What one bound has let through in its minute, which is empty again in ``reset_s``."""

    bound: Bound
    requests: int
    tokens: int
    reset_s: float


def remaining_of(uses: Iterable[Use]) -> Remaining | None:
    """The tightest of what limits requests and tokens; ``None`` when nothing does."""
    requests = tokens = NOT_LIMITED
    for bound, used_requests, used_tokens, reset_s in uses:
        if bound.rpm < NO_LIMIT:
            requests = min(requests, (bound.rpm - used_requests, bound.rpm, reset_s))
        if bound.tpm < NO_LIMIT:
            tokens = min(tokens, (bound.tpm - used_tokens, bound.tpm, reset_s))
    if requests is tokens is NOT_LIMITED:
        return None
    return Remaining(*_told(requests), *_told(tokens))


def _allowances(bound: Bound, standing: Standing, now_ms: int) -> Iterator[Allowance]:
    minute_ms = now_ms + int(standing.reset_s * 1000)
    if bound.rpm < NO_LIMIT:
        left = max(0, bound.rpm - standing.requests)
        yield Allowance("rpm", bound.rpm_holder, bound.rpm, left, minute_ms)
    if bound.tpm < NO_LIMIT:
        left = max(0, bound.tpm - standing.tokens)
        yield Allowance("tpm", bound.tpm_holder, bound.tpm, left, minute_ms)
    if bound.parallel < NO_LIMIT:
        left = max(0, bound.parallel - standing.running)
        yield Allowance("parallel", bound.parallel_holder, bound.parallel, left, None)
    for budget in bound.budgets:
        used = standing.spent_nanos.get(budget.period, 0) + standing.held_nanos
        left, ends_ms = max(0, budget.nanos - used), ends_at_ms(budget.period, now_ms)
        yield Allowance("budget", budget.holder, budget.nanos, left, ends_ms, budget.period)


def _told(tightest: tuple[int, int, float]) -> tuple[int | None, int | None, float]:
    if tightest is NOT_LIMITED:
        return None, None, 0.0
    left, limit, reset_s = tightest
    return limit, max(0, left), reset_s
