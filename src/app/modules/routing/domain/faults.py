"""Faults of upstreams: what they are called, whose they are, and what follows from that."""

from enum import Enum

from app.kernel.errors import BadUpstream, TooMany, Unavailable, UpstreamTimeout


class UpstreamUnreachable(BadUpstream):
    """No connection, or one that broke."""

    title = "Upstream unreachable"


class UpstreamSilent(UpstreamTimeout):
    """The upstream took longer than the deadline."""

    title = "Upstream timed out"


class AnswerTooLarge(BadUpstream):
    """The answer is larger than ROUTING_ANSWER_LIMIT_BYTES."""

    title = "Upstream answer too large"


class UpstreamRefusedUs(BadUpstream):
    """The upstream does not accept the gateway's own key. Not the caller's fault."""

    title = "Upstream credentials refused"


class UpstreamNonsense(BadUpstream):
    """The upstream's answer is not what its contract says."""

    title = "Upstream answered nonsense"


class StreamBroken(BadUpstream):
    """The upstream ended its stream before it was complete."""

    title = "Upstream stream broken"


class NoCapacity(TooMany):
    """The upstreams have all the calls that they may have, and the queue is full too."""

    title = "Upstream busy"


class CircuitOpen(Unavailable):
    """The upstream has failed so often that it is left alone for a moment."""

    title = "Upstream resting"


class Fault(Enum):
    """Whose fault an answer is; what follows is in ``service/dispatch.py``."""

    NONE = "none"
    CALLER = "caller"
    KEY = "key"
    TARGET = "target"
    SERVER = "server"
    SATURATION = "saturation"


KEY_STATUSES = frozenset({401, 402, 403, 429})
# A model that is not there, or not by this way: asking again is useless, asking elsewhere is not.
TARGET_STATUSES = frozenset({404, 405, 410})
# What asks to be tried again: a time-out, an early request, a lock held, and a missing body read.
AGAIN_STATUSES = frozenset({408, 409, 425})


def fault_of(status: int, *, is_pool: bool = False) -> Fault:
    """Class an upstream's status.

    A 5xx of a pool is saturation: it is worth another try, and says nothing bad of the pool. A
    redirect is a server that is not what it was configured as.
    """
    if status == 200:
        return Fault.NONE
    if status in KEY_STATUSES:
        return Fault.KEY
    if status in TARGET_STATUSES:
        return Fault.TARGET
    if status in AGAIN_STATUSES:
        return Fault.SERVER
    if 400 <= status < 500:
        return Fault.CALLER
    return Fault.SATURATION if is_pool and status >= 500 else Fault.SERVER


def backoff_s(attempt: int, draw: float) -> float:
    """Full jitter: a uniform draw in [0, 1) of 0.1 s doubled with each attempt, 2 s at most.

    After M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return float(draw * min(2.0, 0.1 * 2**attempt))


def retry_after_s(text: str, otherwise: float) -> float:
    """Read ``Retry-After``: seconds only, since a date needs a clock; bounded to an hour."""
    try:
        given = float(text)
    except ValueError:
        return otherwise
    return min(max(given, 0.0), 3600.0) if given == given else otherwise  # noqa: PLR0124 - not a number is not itself
