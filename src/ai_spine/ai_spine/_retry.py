"""Which outcomes are tried again, and after how long."""

from __future__ import annotations

import re
from typing import Any

from ai_spine._call import Answer, Call, Outcome

BACK_OFF_BASE_S = 1.0
BACK_OFF_MAX_S = 10.0
# Who is to wait longer is told so at once, and not kept.
RETRY_AFTER_MAX_S = 60
_WHOLE = re.compile(r"[0-9]{1,9}")
TOO_MANY = 429
# These may come of something between us and the server, after it did what was asked.
BUSY = frozenset({500, 502, 503, 504})


def pause_s(
    call: Call[Any], outcome: Outcome, retry: int, chance: float
) -> float | None:
    """Seconds until attempt ``retry`` + 1; ``None`` when trying again is wrong.

    ``chance`` is 0 to 1: clients that failed together do not come back together.
    """
    if not _is_worth_it(call, outcome):
        return None
    wanted = retry_after_s(outcome) if isinstance(outcome, Answer) else None
    if wanted is not None:
        return float(wanted) if wanted <= RETRY_AFTER_MAX_S else None
    back_off_s: float = min(BACK_OFF_MAX_S, BACK_OFF_BASE_S * 2**retry)
    return chance * back_off_s


def retry_after_s(answer: Answer) -> int | None:
    """The whole seconds that the server asks for, if it does."""
    said = answer.headers.get("retry-after", "").strip()
    return int(said) if _WHOLE.fullmatch(said) else None


def _is_worth_it(call: Call[Any], outcome: Outcome) -> bool:
    """What was refused at the door is safe to send again; the rest if the call is."""
    if isinstance(outcome, Answer):
        return outcome.status == TOO_MANY or (call.retry and outcome.status in BUSY)
    return call.retry or not outcome.is_sent
