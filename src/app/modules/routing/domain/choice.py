"""The choice: which upstream a call goes to, and where it goes next when that one fails.

Pure: loads and latencies come in, and so do the random numbers.
"""

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

import msgspec

from app.modules.routing.domain.balance import Terms, Weights, balance
from app.modules.routing.domain.cards import Quality
from app.modules.routing.domain.names import qualified
from app.modules.routing.domain.preferences import Preferences, Sort
from app.modules.routing.domain.prices import Price, blended_micros

Policy = Literal[
    "ordered",
    "weighted",
    "least-busy",
    "lowest-latency",
    "lowest-cost",
    "balanced",
    "affinity",
]

# How far a candidate's load may be above its fair share before affinity gives way: c of Mirrokni,
# Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018.
LOAD_FACTOR: Final = 1.25
DECAY_S: Final = 10.0
SORT_POLICIES: Final[dict[Sort, Policy]] = {
    "price": "lowest-cost",
    "latency": "lowest-latency",
    # The upstream with the fewest calls has the most throughput to give.
    "throughput": "least-busy",
}
UNMEASURED: Final = "; throughput itself is not measured"


class Candidate(msgspec.Struct, frozen=True):
    """One place where a call could go, with what is known of it at this moment.

    ``index`` is its place in the alias. ``limit`` is its number of calls at once, 0 for none;
    ``ttft_ewma_ms`` the peak EWMA of the time to its first token, ``None`` before the first one.
    No ``capabilities``, or a ``context_tokens`` of 0, means that nothing is known of them.
    """

    index: int
    upstream: str
    model: str
    weight: int = 1
    price: Price | None = None
    in_flight: int = 0
    limit: int = 0
    queued: int = 0
    ttft_ewma_ms: float | None = None
    is_open: bool = False
    is_stale: bool = False
    is_local: bool = False
    quality: Quality = "good"
    capabilities: frozenset[str] = frozenset()
    context_tokens: int = 0

    @property
    def load(self) -> int:
        return self.in_flight + self.queued


class Wish(msgspec.Struct, frozen=True):
    """What a call is like. ``affinity_hash`` marks its conversation, 0 for none.

    ``draws`` are two uniform numbers in [0, 1), drawn by the caller. ``needs`` are capabilities,
    such as vision and tools. ``chars`` is the size of the request, by which price and latency are
    weighed against each other.
    """

    affinity_hash: int = 0
    tokens_estimate: int = 0
    draws: tuple[float, float] = (0.0, 0.0)
    needs: frozenset[str] = frozenset()
    chars: int = 0
    weights: Weights = Weights()


class Reason(msgspec.Struct, frozen=True):
    """Why a candidate was kept or dropped. The lower ``score``, the better; ``None``: no score."""

    index: int
    verdict: Literal["kept", "dropped"]
    text: str
    score: float | None = None


class Decision(msgspec.Struct, frozen=True):
    """``order``: indexes of the candidates to try, the best first. May be empty."""

    order: tuple[int, ...]
    reasons: tuple[Reason, ...]


class Ranked(NamedTuple):
    """A candidate in its place, with the score that put it there."""

    candidate: Candidate
    score: float | None
    text: str


Rank = Callable[[Sequence[Candidate], Wish], list[Ranked]]


def decide(
    candidates: Sequence[Candidate], policy: Policy, preferences: Preferences, wish: Wish
) -> Decision:
    """Put the candidates that fit into the order in which they are to be tried.

    Preferences come before the policy, and ``sort`` replaces it. A candidate that is resting or
    has not been heard of is left out, unless all are: then the least bad comes first. One that is
    known to be too small, or to lack what the call needs, is tried last.
    """
    kept, reasons = _sifted(candidates, preferences, wish)
    rank = RANKS[SORT_POLICIES[preferences.sort] if preferences.sort else policy]
    ranked = rank(kept, wish)
    if len(ranked) > 1:
        ranked.sort(key=lambda found: _tier(found.candidate, preferences, wish))
        if not preferences.allow_fallbacks:
            reasons += [_dropped(found.candidate, "fallbacks are off") for found in ranked[1:]]
            del ranked[1:]
    note = UNMEASURED if preferences.sort == "throughput" else ""
    reasons += [
        Reason(c.index, "kept", text + note + _ailment(c), score) for c, score, text in ranked
    ]
    return Decision(tuple(found.candidate.index for found in ranked), tuple(reasons))


def peak_ewma(
    previous_ms: float, sample_ms: float, elapsed_s: float, decay_s: float = DECAY_S
) -> float:
    """Move the estimate of a latency: up at once, down slowly, with age.

    After Finagle's peak EWMA load metric: a worse sample replaces the estimate, a better one is
    averaged in, and weighs the more the longer ago the last one was. An estimate that is only
    being read ages by ``peak_ewma(previous_ms, 0.0, elapsed_s)``: without that, an upstream that
    was slow once is never tried again.
    """
    if sample_ms >= previous_ms:
        return sample_ms
    keep = math.exp(-max(0.0, elapsed_s) / decay_s)
    return previous_ms * keep + sample_ms * (1.0 - keep)


def _sifted(
    candidates: Sequence[Candidate], preferences: Preferences, wish: Wish
) -> tuple[list[Candidate], list[Reason]]:
    kept, reasons = [], []
    for candidate in candidates:
        objection = _objection(candidate, preferences, wish)
        if objection:
            reasons.append(_dropped(candidate, objection))
        else:
            kept.append(candidate)
    well = [candidate for candidate in kept if not (candidate.is_open or candidate.is_stale)]
    if not well or len(well) == len(kept):
        return kept, reasons
    ill = [candidate for candidate in kept if candidate.is_open or candidate.is_stale]
    return well, reasons + [_dropped(c, "stale" if c.is_stale else "resting") for c in ill]


def _dropped(candidate: Candidate, text: str) -> Reason:
    return Reason(candidate.index, "dropped", text)


def _objection(candidate: Candidate, preferences: Preferences, wish: Wish) -> str:
    """Why the caller's preferences exclude a candidate, or nothing."""
    if preferences.only and not _is_named(candidate, preferences.only):
        return "not among provider.only"
    if preferences.ignore and _is_named(candidate, preferences.ignore):
        return "named by provider.ignore"
    if preferences.is_private and not candidate.is_local:
        return "not known to keep nothing of what it is sent, as only local models are"
    if preferences.require_parameters and not wish.needs <= candidate.capabilities:
        return f"not known to have {', '.join(sorted(wish.needs - candidate.capabilities))}"
    return _price_objection(candidate.price, preferences)


def _price_objection(price: Price | None, preferences: Preferences) -> str:
    most_in, most_out = preferences.max_prompt_micros, preferences.max_completion_micros
    if most_in is None and most_out is None:
        return ""
    if price is None:
        return "no price is known, and provider.max_price is set"
    if most_in is not None and price.input_micros > most_in:
        return "dearer than provider.max_price.prompt"
    if most_out is not None and price.output_micros > most_out:
        return "dearer than provider.max_price.completion"
    return ""


def _is_named(candidate: Candidate, names: tuple[str, ...]) -> bool:
    return _place(candidate, names) < len(names)


def _place(candidate: Candidate, names: tuple[str, ...]) -> int:
    """Where the names mention a candidate; after the last one, if they do not."""
    if not names:
        return 0
    upstream = candidate.upstream.lower()
    mine = (upstream, qualified(upstream, candidate.model.lower()))
    return next((place for place, name in enumerate(names) if name in mine), len(names))


def _tier(candidate: Candidate, preferences: Preferences, wish: Wish) -> tuple[int, int, bool]:
    """What comes before the policy: health, the caller's order, and whether it can answer."""
    illness = 2 * candidate.is_open + candidate.is_stale
    is_small = 0 < candidate.context_tokens < wish.tokens_estimate
    lacks = bool(candidate.capabilities) and not wish.needs <= candidate.capabilities
    return illness, _place(candidate, preferences.order), is_small or lacks


def _ailment(candidate: Candidate) -> str:
    """What is wrong with a candidate that is tried all the same."""
    if candidate.is_open:
        return "; resting, and none is better"
    return "; stale, and none is better" if candidate.is_stale else ""


def _ordered(candidates: Sequence[Candidate], _: Wish) -> list[Ranked]:
    ranked = [Ranked(c, float(c.index), "in order") for c in candidates]
    ranked.sort(key=_score)
    return ranked


def _weighted(candidates: Sequence[Candidate], wish: Wish) -> list[Ranked]:
    """Draw without putting back.

    What is left of a draw inside the share that it hit is uniform again, so that one number
    orders all. Without any weight, what is left stays in order.
    """
    left, draw = list(candidates), wish.draws[0]
    ranked: list[Ranked] = []
    while left:
        total = sum(max(0, candidate.weight) for candidate in left)
        hit, draw = _hit(left, draw * total) if total else (0, draw)
        drawn = left.pop(hit)
        ranked.append(Ranked(drawn, float(len(ranked)), f"drawn with weight {drawn.weight}"))
    return ranked


def _hit(candidates: list[Candidate], point: float) -> tuple[int, float]:
    """The candidate in whose share a point lies, and how far inside."""
    last = 0
    for place, candidate in enumerate(candidates):
        if candidate.weight <= 0:
            continue
        if point < candidate.weight:
            return place, point / candidate.weight
        point -= candidate.weight
        last = place
    # Rounding can carry a point over the end of the last share.
    return last, 0.0


def _least_busy(candidates: Sequence[Candidate], wish: Wish) -> list[Ranked]:
    """By the part of its room that is taken; equals take turns, by the draw."""
    count = len(candidates)
    start = int(wish.draws[0] * count)
    turned = [candidates[(start + step) % count] for step in range(count)]
    have_limits = all(candidate.limit > 0 for candidate in candidates)
    ranked = [
        Ranked(c, c.load / (c.limit if have_limits else max(1, c.weight)), f"{c.load} calls")
        for c in turned
    ]
    ranked.sort(key=_score)
    return ranked


def _lowest_latency(candidates: Sequence[Candidate], wish: Wish) -> list[Ranked]:
    """The better one of two drawn at random, then the others by score.

    Two choices are nearly as good as the best of all, and do not send everybody to the same one:
    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001.
    One that has not answered yet scores 0, and so is tried.
    """
    ranked = [_by_latency(candidate) for candidate in candidates]
    count = len(ranked)
    if count < 2:
        return ranked
    one = int(wish.draws[0] * count)
    other = int(wish.draws[1] * (count - 1))
    other += other >= one
    best = min((ranked[one], ranked[other]), key=_score)
    ranked.remove(best)
    ranked.sort(key=_score)
    return [best, *ranked]


def _by_latency(candidate: Candidate) -> Ranked:
    if candidate.ttft_ewma_ms is None:
        return Ranked(candidate, 0.0, "not measured yet")
    score = candidate.ttft_ewma_ms * (candidate.in_flight + 1)
    return Ranked(candidate, score, f"{candidate.ttft_ewma_ms:.0f} ms, {candidate.in_flight} calls")


def _lowest_cost(candidates: Sequence[Candidate], _: Wish) -> list[Ranked]:
    ranked = [_by_cost(candidate) for candidate in candidates]
    ranked.sort(key=_score)
    return ranked


def _by_cost(candidate: Candidate) -> Ranked:
    price = candidate.price
    if price is None:
        return Ranked(candidate, None, "no price is known")
    score = blended_micros(price)
    return Ranked(candidate, score, f"{score / 1e6:.4g} {price.currency} a million tokens")


def _balanced(candidates: Sequence[Candidate], wish: Wish) -> list[Ranked]:
    """By price and latency together."""
    terms = [Terms(candidate.price, candidate.ttft_ewma_ms) for candidate in candidates]
    scores = balance(terms, wish.chars, wish.weights)
    ranked = [
        Ranked(candidate, score, "by price and latency")
        for candidate, score in zip(candidates, scores, strict=True)
    ]
    ranked.sort(key=_score)
    return ranked


def _affinity(candidates: Sequence[Candidate], wish: Wish) -> list[Ranked]:
    """The same conversation to the same place, while that has room.

    Weighted rendezvous hashing (Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998): when a candidate
    leaves, only its own conversations move. Who has more than its share of the load comes last.
    """
    if not wish.affinity_hash:
        return _least_busy(candidates, wish)
    weights = [max(0, candidate.weight) for candidate in candidates]
    if not any(weights):
        weights = [1] * len(candidates)
    share = LOAD_FACTOR * (sum(c.load for c in candidates) + 1) / max(1, sum(weights))
    home, full = [], []
    for candidate, weight in zip(candidates, weights, strict=True):
        distance = _distance(candidate, wish.affinity_hash, weight)
        if candidate.load < math.ceil(share * weight):
            home.append(Ranked(candidate, distance, "by conversation"))
        else:
            full.append(Ranked(candidate, distance, "by conversation, but has its share of calls"))
    home.sort(key=_score)
    full.sort(key=_score)
    return home + full


def _distance(candidate: Candidate, affinity_hash: int, weight: int) -> float:
    """How far a conversation is from a candidate: exponential, at the rate of its weight.

    A hash of the names and not of the place: candidates that come and go must not move others.
    """
    if not weight:
        return math.inf
    text = f"{affinity_hash:x} {candidate.upstream} {candidate.model}".encode()
    digest = int.from_bytes(blake2b(text, digest_size=8).digest())
    return -math.log((digest + 1) / (2**64 + 1)) / weight


def _score(ranked: Ranked) -> float:
    """Without a score comes last, and never first as 0 would."""
    return math.inf if ranked.score is None else ranked.score


RANKS: Final[dict[Policy, Rank]] = {
    "ordered": _ordered,
    "weighted": _weighted,
    "least-busy": _least_busy,
    "lowest-latency": _lowest_latency,
    "lowest-cost": _lowest_cost,
    "balanced": _balanced,
    "affinity": _affinity,
}
