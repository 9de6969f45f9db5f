"""Price against latency: one number for each place that a call could go to."""

from collections.abc import Sequence

import msgspec

from app.modules.routing.domain.prices import Price, blended_micros


class Weights(msgspec.Struct, frozen=True):
    """How much price and latency count, and the size at which price decides alone."""

    cost: float = 1.0
    latency: float = 1.0
    threshold_chars: int = 1000


class Terms(msgspec.Struct, frozen=True):
    """What a place to go to costs and how quickly it answers, as far as is known."""

    price: Price | None = None
    latency_ms: float | None = None


def balance(terms: Sequence[Terms], chars: int, weights: Weights) -> tuple[float, ...]:
    """Score places to go to by price and latency; the lowest is the best.

    Each is measured against the highest of its kind, and the price by the size of the request
    too: from ``threshold_chars`` of text on, what is free is never worse than what is not, at
    equal weights; below that, a lead in latency can decide. An unknown price counts as the
    highest one, and an unknown latency as none, so that it becomes known.
    """
    prices = [blended_micros(term.price) if term.price else None for term in terms]
    dearest = max((price for price in prices if price is not None), default=0.0) or 1.0
    slowest = max((term.latency_ms or 0.0 for term in terms), default=0.0) or 1.0
    size = chars / max(1, weights.threshold_chars)
    return tuple(
        weights.cost * size * (1.0 if price is None else price / dearest)
        + weights.latency * (term.latency_ms or 0.0) / slowest
        for price, term in zip(prices, terms, strict=True)
    )
