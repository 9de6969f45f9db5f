"""What billing needs outside: a safe place for usage, and one count for all processes."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from app.modules.billing.domain.limits import Bounds
from app.modules.billing.domain.periods import Spent
from app.modules.billing.domain.standings import Remaining, Standing
from app.modules.billing.domain.usage import Usage


class Journal(Protocol):
    """An append-only file of usage in segments. A segment is dropped once its rows are stored."""

    def append(self, usage: Usage) -> str:
        """Write one line. When this returns the segment's name, the line outlives the process."""
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


class Hold(msgspec.Struct, frozen=True):
    """What one call holds of each subject that limits it."""

    id: UUID
    tokens: int
    cost_nanos: int
    bounds: Bounds


class Taken(msgspec.Struct, frozen=True):
    """``missing`` subjects: nothing was taken, and somebody must say what they have spent.

    Otherwise the standings, one for each bound.
    """

    missing: tuple[str, ...] = ()
    standings: tuple[Standing, ...] = ()


class Addition(msgspec.Struct, frozen=True):
    """Rows of one day that one transaction has stored: the one that made ``version``."""

    subject: str
    version: int
    day: int
    nanos: int


class Receipt(msgspec.Struct, frozen=True):
    """A segment is stored: what was owed until then, what it adds to what is spent.

    ``unsure`` subjects had rows that were stored before: what is spent must be asked for again.
    """

    paid: Mapping[str, int] = {}
    additions: Sequence[Addition] = ()
    unsure: frozenset[str] = frozenset()


class Holds(Protocol):
    """Counts what calls hold and have used, for every subject that is limited.

    A hold that nobody ends and no live process vouches for ends by itself.
    """

    async def take(self, hold: Hold, spent: Mapping[str, Spent]) -> Taken:
        """Take all or nothing. ``spent`` tells what was found missing before.

        ``LimitReached`` or ``BudgetSpent`` when it does not fit.
        """
        ...

    async def look(self, bounds: Bounds, spent: Mapping[str, Spent]) -> Taken:
        """Where the subjects stand. Takes nothing."""
        ...

    def end(self, call_id: UUID, tokens: int, owed_nanos: int, bounds: Bounds) -> Bounds:
        """Turn a call's hold into what was used, at once or soon, and never waiting.

        ``owed_nanos`` counts from now until a ``Receipt`` pays it. Returns the bounds that it
        counts for: the hold's, or ``bounds`` where there is no hold.
        """
        ...

    def receive(self, receipt: Receipt) -> None:
        """Move what was owed to what is spent, at once or soon, and never waiting."""
        ...

    async def tend(self) -> None:
        """Vouch for what this process holds, and let go of what is over. Ask every second."""
        ...


class NearHolds(Holds, Protocol):
    """Holds in this process, which need no waiting."""

    def take_now(self, hold: Hold) -> bool:
        """As ``take``; ``False`` when somebody must say what is spent."""
        ...

    def remaining_now(self, bounds: Bounds) -> Remaining | None:
        """What the limits of a minute leave; ``None`` when there are none."""
        ...
