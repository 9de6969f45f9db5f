"""A clock that stands still until it is told otherwise."""

from datetime import UTC, datetime, timedelta

# Later than any wall clock that these tests will see, so that what is deferred now is due.
START = datetime(2100, 1, 1, 12, 0, 30, tzinfo=UTC)


class FakeClock:
    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
