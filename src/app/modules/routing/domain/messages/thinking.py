"""How much a model is to think: OpenAI says it in words, Anthropic in tokens or in words.

Claude takes words, and thinks as it sees fit, from version 4.6 on; a budget of tokens is refused
by 4.7 and later, and is all that earlier ones know. A server of another make that speaks Messages
is given a budget, which is the older form.

========= ====== ===== ====== ====== ===== =====
effort    minimal low  medium high   xhigh max
budget    1024   2048  8192   16384  24576 32768
========= ====== ===== ====== ====== ===== =====
"""

import re
from typing import Final

from app.modules.routing.domain.messages.reading import BadMember
from app.modules.routing.domain.messages.wire import OutputConfig, Thinking
from app.modules.routing.domain.unmappable import Unmappable

BUDGETS_TOKENS: Final = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 24_576,
    "max": 32_768,
}
# Chat servers know these three; what Claude's clients may budget beyond is "high" to them.
COMMON_EFFORTS: Final = ("low", "medium", "high")
# The API refuses less. A budget is within ``max_tokens``, and has to be less than that.
LEAST_BUDGET_TOKENS: Final = 1024
ADAPTIVE_SINCE: Final = (4, 6)
CLAUDE_VERSION = re.compile(r"claude-[a-z]+-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")


def thinking_for(
    effort: str | None, model: str, limit_tokens: int
) -> tuple[Thinking | None, str | None]:
    """Return ``thinking`` and the effort of ``output_config``.

    A budget leaves half of ``limit_tokens`` to the answer itself.
    """
    if effort is None:
        return None, None
    if effort == "none":
        return Thinking("disabled"), None
    if effort not in BUDGETS_TOKENS:
        known = ", ".join(("none", *BUDGETS_TOKENS))
        raise BadMember(f"`reasoning_effort` is one of {known}.", param="reasoning_effort")
    if _is_adaptive(model):
        # Without "summarized", later models keep the text of their thoughts to themselves.
        level = "low" if effort == "minimal" else effort
        return Thinking("adaptive", display="summarized"), level
    if limit_tokens <= LEAST_BUDGET_TOKENS:
        text = f"This model thinks only where max_tokens is above {LEAST_BUDGET_TOKENS}."
        raise Unmappable(text, param="reasoning_effort")
    budget_tokens = max(LEAST_BUDGET_TOKENS, min(BUDGETS_TOKENS[effort], limit_tokens // 2))
    return Thinking("enabled", budget_tokens), None


def effort_for(thinking: Thinking | None, config: OutputConfig | None) -> str | None:
    """Return the ``reasoning_effort`` that a Messages request amounts to.

    None where thinking is off, which is how the API behaves unless told otherwise, so that a
    server that cannot think at all is not asked about it; and none where the model decides.
    """
    level = config.effort if config else None
    if thinking is None or thinking.type == "adaptive":
        return level
    if thinking.type == "disabled":
        return None
    if thinking.type != "enabled":
        text = f"Chat completions have no thinking of type {thinking.type[:32]!r}."
        raise Unmappable(text, param="thinking.type")
    if thinking.budget_tokens is None:
        text = "Thinking that is enabled needs `budget_tokens`."
        raise BadMember(text, param="thinking.budget_tokens")
    fitting = (e for e in COMMON_EFFORTS if thinking.budget_tokens <= BUDGETS_TOKENS[e])
    return level or next(fitting, COMMON_EFFORTS[-1])


def _is_adaptive(model: str) -> bool:
    found = CLAUDE_VERSION.search(model)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= ADAPTIVE_SINCE
