"""Why a call is not admitted."""

from typing import Final, Literal

from app.kernel.errors import TooMany
from app.modules.billing.domain.limits import Budget, Holder
from app.modules.billing.domain.periods import ends_at_ms

RateName = Literal["rpm", "tpm", "parallel"]

WORDS: Final[dict[RateName, str]] = {
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "parallel": "calls at once",
}
HOLDERS: Final[dict[Holder, str]] = {
    "key": "this API key",
    "user": "this account",
    "tier": "this account's tier",
}
# Nobody knows when a running call ends, or when somebody raises a budget that never begins anew.
RUNNING_RETRY_S: Final = 1.0
NEVER_RETRY_S: Final = 86_400.0


class LimitReached(TooMany):
    """More often, more tokens or more calls at once than a limit allows; ``limit`` names it.

    ``should_retry`` is false where no waiting helps, because the call alone is beyond the limit.
    """

    title = "Limit reached"


class BudgetSpent(TooMany):
    """The money of this period is spent, or held by calls that still run.

    ``should_retry`` is false unless calls that still run may give enough of it back.
    """

    title = "Budget spent"


def limit_reached(name: RateName, most: int, holder: Holder, wait_s: float) -> LimitReached:
    text = f"{HOLDERS[holder]} has {most} {WORDS[name]}; try again when Retry-After has passed."
    return LimitReached(
        _sentence(text), retry_after_s=wait_s, limit=name, holder=holder, should_retry=True
    )


def too_many_tokens(tokens: int, most: int, holder: Holder, wait_s: float) -> LimitReached:
    """The one call is larger than a whole minute may be."""
    text = f"{HOLDERS[holder]} has {most} tokens a minute, and this call may use {tokens}"
    return LimitReached(
        _sentence(f"{text}: shorten the prompt or ask for fewer output tokens."),
        retry_after_s=wait_s,
        limit="tpm",
        holder=holder,
        should_retry=False,
    )


def budget_spent(budget: Budget, now_ms: int, *, is_held: bool) -> BudgetSpent:
    """``is_held``: only calls that still run keep this one out."""
    ends_ms = ends_at_ms(budget.period, now_ms)
    wait_s = NEVER_RETRY_S if ends_ms is None else (ends_ms - now_ms) / 1000
    span = {"day": " of this day", "month": " of this month", "total": ""}[budget.period]
    reason = "is held by calls that still run" if is_held else "does not cover this call"
    return BudgetSpent(
        _sentence(f"{HOLDERS[budget.holder]} has a budget, and what is left{span} {reason}."),
        retry_after_s=RUNNING_RETRY_S if is_held else wait_s,
        limit="budget",
        holder=budget.holder,
        period=budget.period,
        should_retry=is_held,
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
