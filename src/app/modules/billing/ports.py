"""What billing needs outside: a place where usage is safe before it reaches the database."""

from collections.abc import Sequence
from typing import Protocol

from app.modules.billing.domain import Usage


class Journal(Protocol):
    """An append-only file of usage in segments. A segment is dropped once its rows are stored."""

    def append(self, usage: Usage) -> None:
        """Write one line. When this returns, the line outlives the process."""
        ...

    def close_segment(self) -> None:
        """Begin a new segment if the current one has lines."""
        ...

    def closed_segments(self) -> Sequence[str]:
        """Segments waiting to be stored, oldest first, those of dead processes included."""
        ...

    def read(self, segment: str) -> list[Usage]:
        """The whole lines of a segment. A line cut short by a crash was never answered for."""
        ...

    def drop(self, segment: str) -> None: ...
