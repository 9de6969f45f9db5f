"""How often somebody may guess. Failures slow the next attempt down; nobody is ever locked out."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from app.kernel.errors import TooMany, Unavailable
from app.modules.auth.domain import Bucket, Strikes

MAX_BUCKETS = 20_000


class TooManyAttempts(TooMany):
    """Too many wrong guesses, from this network or at this account."""

    title = "Too many attempts"


class StrikeBook:
    """Counts failed attempts in this process, in a bounded number of buckets, stalest out first."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._strikes: dict[str, Strikes] = {}

    @contextmanager
    def attempt(self, buckets: Sequence[Bucket]) -> Iterator[None]:
        """Count a strike before the attempt, so that parallel guesses count too.

        It is taken back unless the attempt failed by what was asked: the block raises.
        """
        self._refuse_if_early(buckets)
        self._strike(buckets)
        try:
            yield
        except (TooMany, Unavailable):
            self._take_back(buckets)
            raise
        self._take_back(buckets)

    def _refuse_if_early(self, buckets: Sequence[Bucket]) -> None:
        now_s = self._monotonic()
        waits = [self._of(bucket).wait_s(bucket.allowance, now_s) for bucket in buckets]
        if (wait_s := max(waits, default=0.0)) > 0:
            raise TooManyAttempts("Wait before the next attempt.", retry_after_s=wait_s)

    def _strike(self, buckets: Sequence[Bucket]) -> None:
        for bucket in buckets:
            struck = self._of(bucket).one_more(bucket.allowance, self._monotonic())
            self._strikes.pop(bucket.key, None)
            while len(self._strikes) >= MAX_BUCKETS:
                del self._strikes[next(iter(self._strikes))]
            self._strikes[bucket.key] = struck

    def _take_back(self, buckets: Sequence[Bucket]) -> None:
        for bucket in buckets:
            strikes = self._of(bucket).one_less()
            if strikes.count > 0:
                self._strikes[bucket.key] = strikes
            else:
                self._strikes.pop(bucket.key, None)

    def _of(self, bucket: Bucket) -> Strikes:
        return self._strikes.get(bucket.key, Strikes())
