"""What was spent, by day, month and in all. Days and months are UTC's.

A day is counted from 1970-01-01, a month from the year 0.
"""

from datetime import date
from typing import Final

import msgspec

from app.modules.billing.domain.limits import Period

DAY_MS: Final = 86_400_000
MONTHS: Final = 12
EPOCH: Final = date(1970, 1, 1).toordinal()


class Spent(msgspec.Struct, frozen=True):
    """What the stored usage rows of a subject cost, as ``models.SpentRow`` has it."""

    version: int = 0
    total_nanos: int = 0
    month: int = 0
    month_nanos: int = 0
    day: int = 0
    day_nanos: int = 0

    def within(self, period: Period, day: int, month: int) -> int:
        """Nanos of the period that ``day`` and ``month`` are in."""
        if period == "total":
            return self.total_nanos
        if period == "month":
            return self.month_nanos if self.month == month else 0
        return self.day_nanos if self.day == day else 0

    def plus(self, day: int, nanos: int, *, version: int) -> "Spent":
        """Count rows of one day in. Late ones of an earlier day count where they belong."""
        month = month_of(day)
        return Spent(
            version,
            self.total_nanos + nanos,
            max(month, self.month),
            _rolled(self.month, self.month_nanos, month, nanos),
            max(day, self.day),
            _rolled(self.day, self.day_nanos, day, nanos),
        )


def day_of(at_ms: int) -> int:
    return at_ms // DAY_MS


def month_of(day: int) -> int:
    found = date.fromordinal(EPOCH + day)
    return found.year * MONTHS + found.month - 1


def first_day(month: int) -> int:
    """The day that a month begins with."""
    return date(month // MONTHS, month % MONTHS + 1, 1).toordinal() - EPOCH


def ends_at_ms(period: Period, now_ms: int) -> int | None:
    """When the period that ``now_ms`` is in is over; ``None`` when never."""
    day = day_of(now_ms)
    if period == "day":
        return (day + 1) * DAY_MS
    if period == "month":
        return first_day(month_of(day) + 1) * DAY_MS
    return None


def _rolled(current: int, current_nanos: int, given: int, nanos: int) -> int:
    if given > current:
        return nanos
    return current_nanos + nanos if given == current else current_nanos
