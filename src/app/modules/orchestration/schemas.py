"""The wire of orchestration: the sidecar's two placeholders."""

from typing import Literal

import msgspec

NOT_YET = "No model is configured for chat on this server."


class ChatNotBuilt(msgspec.Struct, frozen=True):
    message: str = NOT_YET
    status: Literal["not_implemented"] = "not_implemented"


class SuggestNotBuilt(msgspec.Struct, frozen=True):
    suggestions: list[str] = []
    status: Literal["not_implemented"] = "not_implemented"
