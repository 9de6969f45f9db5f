"""How much a model is to think: OpenAI says it in words, Gemini in words or in tokens.

From version 3 on Gemini takes a level, earlier ones a budget; a request with both is refused. The
budgets are those of Google's own OpenAI endpoint. Gemini 3 cannot be told not to think at all.

========= ======= ====== ====== ====== =====
effort    none    minimal low   medium high
level     MINIMAL MINIMAL LOW   MEDIUM HIGH
budget    0       1024   1024   8192   24576
========= ======= ====== ====== ====== =====
"""

import re
from typing import Final

from app.modules.routing.domain.google.wire import ThinkingConfig
from app.modules.routing.domain.messages.reading import BadMember

LEVELS: Final = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
}
BUDGETS_TOKENS: Final = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 24_576,
}
LEVELS_SINCE: Final = 3
VERSION: Final = re.compile(r"gemini(?:-(\d{1,4}))?")


def is_level_model(model: str) -> bool:
    """Whether it is Gemini 3 or later; one without a number, as in ``-latest``, is."""
    found = VERSION.search(model)
    return found is not None and int(found[1] or LEVELS_SINCE) >= LEVELS_SINCE


def thinking_for(effort: str | None, model: str) -> ThinkingConfig | None:
    """Ask for thoughts to be shown wherever thinking is asked for."""
    if effort is None:
        return None
    if effort not in LEVELS:
        raise BadMember(
            f"`reasoning_effort` is one of {', '.join(LEVELS)}.", param="reasoning_effort"
        )
    is_shown = True if effort != "none" else None
    if is_level_model(model):
        return ThinkingConfig(is_shown, thinking_level=LEVELS[effort])
    return ThinkingConfig(is_shown, thinking_budget=BUDGETS_TOKENS[effort])
