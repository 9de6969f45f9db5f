"""The circuit breaker: an upstream that keeps failing is left alone, then tried once."""

from typing import Final, Literal

State = Literal["closed", "open", "half-open"]

# What it takes to open: outages weigh twice what an answered error does.
WEIGHT_TO_OPEN: Final = 10
OUTAGE: Final = 2
ERROR: Final = 1
REST_S: Final = 1.0
REST_LIMIT_S: Final = 60.0


class Breaker:
    """Opens when different requests fail, one after the other: five of them by an outage (no
    connection, no answer in time, 502, 503, 504), or ten by an error that the server answered.

    It rests, and lets one call through as a probe; the rest doubles with each failed probe up to
    a minute. Any success closes it. A request that fails each time that its caller tries it again
    counts once: what is wrong with one request must not take a model from everybody. Moments are
    monotonic seconds, given by the caller.
    """

    __slots__ = ("_failed", "_is_probing", "_rest_s", "_until_s", "is_closed")

    def __init__(self) -> None:
        self.is_closed = True
        self._failed: dict[int, int] = {}
        self._rest_s = REST_S
        self._until_s = 0.0
        self._is_probing = False

    def state(self, now_s: float) -> State:
        if self.is_closed:
            return "closed"
        return "open" if now_s < self._until_s or self._is_probing else "half-open"

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next probe may go out."""
        return max(0.0, self._until_s - now_s)

    def begin(self, now_s: float) -> bool:
        """Whether a call may go out now; if half-open, this call is the probe."""
        if self.is_closed:
            return True
        if self.state(now_s) == "open":
            return False
        self._is_probing = True
        return True

    def succeed(self) -> None:
        if self._failed:
            self._failed.clear()
            self.is_closed, self._rest_s, self._is_probing = True, REST_S, False

    def fail(self, now_s: float, request: int, weight: int = OUTAGE) -> None:
        """Count a server's fault; ``request`` tells one request from another.

        Calls that were under way when it opened change nothing more.
        """
        if self.is_closed:
            self._failed[request] = max(weight, self._failed.get(request, 0))
            if sum(self._failed.values()) >= WEIGHT_TO_OPEN:
                self.is_closed = False
                self._until_s = now_s + self._rest_s
        elif self._is_probing:
            self._rest_s = min(REST_LIMIT_S, self._rest_s * 2)
            self._until_s = now_s + self._rest_s
            self._is_probing = False

    def stand_back(self) -> None:
        """A call ended without saying anything of the server: a probe may go out again."""
        self._is_probing = False
