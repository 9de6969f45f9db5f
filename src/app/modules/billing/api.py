"""What other modules may see of billing: the meter, which keeps one row for each model call."""

from typing import Protocol

from app.modules.billing.domain import Outcome, Usage

__all__ = ["Meter", "Outcome", "Usage"]


class Meter(Protocol):
    """Keeps usage. What was recorded survives ``kill -9`` and is counted exactly once."""

    def record(self, usage: Usage) -> None:
        """Keep ``usage`` before the caller sends the last byte of its answer."""
        ...
