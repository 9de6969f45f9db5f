"""Model cards: what a model can do, as far as its registry row says."""

from typing import Literal

import msgspec

Quality = Literal["good", "great", "excellent"]


class Card(msgspec.Struct, frozen=True):
    """``context_tokens`` is 0, and ``capabilities`` empty, where nothing is known."""

    quality: Quality = "good"
    capabilities: frozenset[str] = frozenset()
    context_tokens: int = 0
