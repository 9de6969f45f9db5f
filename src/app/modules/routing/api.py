"""What other modules may see of routing: a model call in this process."""

from typing import Protocol
from uuid import UUID

import msgspec

from app.modules.auth.api import Principal

__all__ = ["Completion", "Completions"]


class Completion(msgspec.Struct, frozen=True):
    """A model's answer. ``model`` is what it calls itself, ``call_id`` the usage row's id.

    Tokens are ``None`` where the upstream does not tell, and 0 where the answer was known already.
    """

    text: str
    model: str
    call_id: UUID
    input_tokens: int | None
    output_tokens: int | None


class Completions(Protocol):
    """Models, asked as ``POST /v1/chat/completions`` asks them, and on the same bill."""

    async def complete(
        self,
        principal: Principal,
        model: str,
        prompt: str,
        *,
        system_prompt: str = "",
        call_key: str = "",
    ) -> Completion:
        """Ask one thing, for ``principal`` and within their limits.

        ``model`` is a name of ``GET /v1/models``; ``default`` or nothing leaves it to the
        installation. ``call_key`` takes the place of the request's id in the usage row. What goes
        wrong is an ``AppError`` with a text that ``principal`` may see. Cancelling it is the
        caller's leaving: the upstream is cut, and what was used is written down.
        """
        ...
