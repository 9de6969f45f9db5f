"""Counts model calls for Prometheus. Everything is added up first, and handed over twice a second.

A step of the Prometheus client takes a lock and walks its buckets; a call has many steps.
"""

import asyncio
from bisect import bisect_left
from typing import Final

from prometheus_client import Counter, Histogram

from app.kernel import log
from app.modules.billing.api import Usage

PUSH_EVERY_S = 0.5
MAX_KEYS = 10_000
CALL_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
OVERHEAD_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1)


class BatchHistogram(Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: list[int], total: float) -> None:
        """Add ``counts`` observations, bucket by bucket, that come to ``total`` together."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


SECONDS: Final = BatchHistogram(
    "insula_model_call_seconds",
    "Duration of model calls.",
    ("model", "upstream", "outcome"),
    buckets=CALL_BUCKETS_S,
)
OVERHEAD: Final = BatchHistogram(
    "insula_gateway_overhead_seconds",
    "The gateway's own share of a model call.",
    buckets=OVERHEAD_BUCKETS_S,
)
TOKENS: Final = Counter("insula_model_tokens", "Tokens of model calls.", ("model", "direction"))
UNPRICED: Final = Counter(
    "insula_model_calls_unpriced", "Calls that cost something unknown.", ("model", "upstream")
)

_log = log.get("routing")


class Sum:
    """Observations since the last push, by bucket."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_total")

    def __init__(self, histogram: BatchHistogram, bounds: tuple[float, ...]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def push(self) -> None:
        if any(self._counts):
            self._histogram.add(self._counts, self._total)
            self._counts = [0] * len(self._counts)
            self._total = 0.0


class Line:
    """What one model, upstream and outcome have counted since the last push."""

    __slots__ = ("input_tokens", "output_tokens", "seconds", "unpriced")

    def __init__(self, seconds: Sum) -> None:
        self.seconds = seconds
        self.clear()

    def clear(self) -> None:
        self.input_tokens = 0
        self.output_tokens = 0
        self.unpriced = 0


class Tally:
    """Counts what ``billing`` has kept, and how long the gateway itself took."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str], Line] = {}
        self._overhead = Sum(OVERHEAD, OVERHEAD_BUCKETS_S)
        self._alarmed: set[tuple[str, str]] = set()
        self._is_waiting = False

    def count(self, usage: Usage) -> None:
        """Count one call by its usage row."""
        key = (usage.model, usage.upstream, usage.outcome)
        line = self._lines.get(key) or self._begin(key)
        line.seconds.observe(usage.duration_ms / 1000)
        line.input_tokens += usage.input_tokens or 0
        line.output_tokens += usage.output_tokens or 0
        if usage.cost_nanos is None and usage.input_tokens is not None:
            line.unpriced += 1
            self._alarm(usage.model, usage.upstream)
        if not self._is_waiting:
            self._is_waiting = True
            asyncio.get_running_loop().call_later(PUSH_EVERY_S, self.push)

    def note_overhead(self, seconds: float) -> None:
        """Count the part of a call that was ours."""
        self._overhead.observe(seconds)

    def push(self) -> None:
        """Hand over what was added up."""
        self._is_waiting = False
        self._overhead.push()
        for (model, upstream, _), line in self._lines.items():
            line.seconds.push()
            TOKENS.labels(model, "input").inc(line.input_tokens)
            TOKENS.labels(model, "output").inc(line.output_tokens)
            if line.unpriced:
                UNPRICED.labels(model, upstream).inc(line.unpriced)
            line.clear()

    def _begin(self, key: tuple[str, str, str]) -> Line:
        if len(self._lines) >= MAX_KEYS:
            self.push()
            self._lines.clear()
        self._lines[key] = line = Line(Sum(SECONDS.labels(*key), CALL_BUCKETS_S))
        return line

    def _alarm(self, model: str, upstream: str) -> None:
        """Say once a model that its calls have no price."""
        if (model, upstream) not in self._alarmed and len(self._alarmed) < MAX_KEYS:
            self._alarmed.add((model, upstream))
            _log.warning("routing.price-missing", model=model, upstream=upstream)
