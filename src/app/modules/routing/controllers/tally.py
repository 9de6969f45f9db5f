"""Counts model calls for Prometheus. What can wait is added up and handed over twice a second."""

import asyncio
from typing import Any, Final

from prometheus_client import Counter, Histogram

from app.kernel import log
from app.modules.billing.api import Usage

PUSH_EVERY_S = 0.5
MAX_KEYS = 10_000

SECONDS: Final = Histogram(
    "insula_model_call_seconds", "Duration of model calls.", ("model", "upstream", "outcome")
)
TOKENS: Final = Counter("insula_model_tokens", "Tokens of model calls.", ("model", "direction"))
UNPRICED: Final = Counter(
    "insula_model_calls_unpriced", "Calls that cost something unknown.", ("model", "upstream")
)

_log = log.get("routing")


class Line:
    """What one model, upstream and outcome have counted since the last push."""

    __slots__ = ("input_tokens", "output_tokens", "seconds", "unpriced")

    def __init__(self, seconds: Any) -> None:
        self.seconds = seconds
        self.clear()

    def clear(self) -> None:
        self.input_tokens = 0
        self.output_tokens = 0
        self.unpriced = 0


class Tally:
    """A counter of the Prometheus client takes a lock at each step, so calls are added up first."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str], Line] = {}
        self._alarmed: set[tuple[str, str]] = set()
        self._is_waiting = False

    def count(self, usage: Usage) -> None:
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

    def push(self) -> None:
        """Hand over what was added up."""
        self._is_waiting = False
        for (model, upstream, _), line in self._lines.items():
            TOKENS.labels(model, "input").inc(line.input_tokens)
            TOKENS.labels(model, "output").inc(line.output_tokens)
            if line.unpriced:
                UNPRICED.labels(model, upstream).inc(line.unpriced)
            line.clear()

    def _begin(self, key: tuple[str, str, str]) -> Line:
        if len(self._lines) >= MAX_KEYS:
            self.push()
            self._lines.clear()
        self._lines[key] = line = Line(SECONDS.labels(*key))
        return line

    def _alarm(self, model: str, upstream: str) -> None:
        """Say once a model that its calls have no price."""
        if (model, upstream) not in self._alarmed:
            self._alarmed.add((model, upstream))
            _log.warning("routing.price-missing", model=model, upstream=upstream)
