"""What this process knows of each upstream while it works: load, speed, health, keys."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from app.modules.routing.domain.breaker import Breaker, State
from app.modules.routing.domain.choice import peak_ewma
from app.modules.routing.domain.faults import CircuitOpen, NoCapacity
from app.modules.routing.ports import Source, Target

KEY_REST_S = 30.0
QUEUE_RETRY_S = 1.0
MAX_PACES = 10_000


class GateLimits(msgspec.Struct, frozen=True):
    """For each upstream: calls at once, calls that wait, and how long one waits at most."""

    parallel: int = 256
    queue: int = 1024
    queue_timeout_s: float = 30.0


class KeyRing:
    """An upstream's keys in turn. One that was refused rests; the last one never does."""

    def __init__(self, keys: Iterable[str], now: Callable[[], float]) -> None:
        self._keys = list(keys)
        self._now = now
        self._rests_until: dict[str, float] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._keys)

    def pick(self) -> str:
        """The next key that does not rest, else the one that rests the shortest; "" for none."""
        if len(self._keys) < 2:
            return self._keys[0] if self._keys else ""
        now = self._now()
        for step in range(len(self._keys)):
            key = self._keys[(self._next + step) % len(self._keys)]
            if self._rests_until.get(key, 0.0) <= now:
                self._next = (self._next + step + 1) % len(self._keys)
                return key
        return min(self._keys, key=lambda key: self._rests_until[key])

    def rest(self, key: str, for_s: float) -> None:
        """Leave a key alone for a while."""
        if key in self._keys:
            self._rests_until[key] = self._now() + for_s


class Pace:
    """How fast and how well one model answers at one upstream."""

    __slots__ = ("_at_s", "_ms", "breaker")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self._ms: dict[bool, float] = {}
        self._at_s: dict[bool, float] = {}

    def ewma_ms(self, now_s: float, *, is_streamed: bool) -> float | None:
        """Peak EWMA of the time to the first token, or of plain calls to their end.

        It ages while nothing new is heard, so that who was slow once is tried again.
        """
        found = self._ms.get(is_streamed)
        return found and peak_ewma(found, 0.0, now_s - self._at_s[is_streamed])

    def note(self, sample_ms: float, now_s: float, *, is_streamed: bool) -> None:
        before = self._ms.get(is_streamed)
        if before is None:
            self._ms[is_streamed] = sample_ms
        else:
            elapsed_s = now_s - self._at_s[is_streamed]
            self._ms[is_streamed] = peak_ewma(before, sample_ms, elapsed_s)
        self._at_s[is_streamed] = now_s


class Gate:
    """The way into one upstream: so many at once, so many waiting, the others are sent away."""

    def __init__(self, source: Source, limits: GateLimits, now: Callable[[], float]) -> None:
        self.source = source
        self.limit = source.parallel or limits.parallel
        self.keys = KeyRing(source.keys, now)
        self.line = Breaker()
        self.in_flight = 0
        self.calls = 0
        self.failures = 0
        self._limits = limits
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_free(self) -> bool:
        """Whether a call may go in at once: then count it in ``in_flight``."""
        return self.in_flight < self.limit and not self._waiting

    @property
    def queued(self) -> int:
        return len(self._waiting)

    async def enter(self, within_s: float) -> None:
        """Take a place; ``leave`` gives it back. ``NoCapacity`` when there is none in time."""
        if self.is_free:
            self.in_flight += 1
            return
        if len(self._waiting) >= self._limits.queue:
            raise self._full()
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(min(within_s, self._limits.queue_timeout_s)):
                await place
        except BaseException as error:
            self._give_up(place)
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def leave(self) -> None:
        """Give the place to whoever waits longest, or back."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.in_flight -= 1

    def _give_up(self, place: "asyncio.Future[None]") -> None:
        """Leave the queue; a place that was given in the same moment goes on to the next."""
        if place.done() and not place.cancelled():
            self.leave()
            return
        place.cancel()
        if place in self._waiting:
            self._waiting.remove(place)

    def _full(self) -> NoCapacity:
        return NoCapacity(
            f"{self.source.name} has {self.limit} calls and {len(self._waiting)} waiting.",
            retry_after_s=QUEUE_RETRY_S,
        )


class Health(msgspec.Struct, frozen=True):
    """One upstream, as ``GET /api/v1/routing/upstreams`` shows it."""

    name: str
    state: State
    in_flight: int
    queued: int
    limit: int
    calls: int
    failures: int
    first_token_ms: float | None
    plain_ms: float | None
    resting_models: list[str]


class Gates:
    """All gates and paces of this process. Moments are monotonic seconds."""

    def __init__(self, limits: GateLimits, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._gates: dict[str, Gate] = {}
        self._paces: dict[tuple[str, str], Pace] = {}
        self.now = now

    def gate(self, source: Source) -> Gate:
        found = self._gates.get(source.name)
        if found is None or found.source is not source:
            found = self._gates[source.name] = Gate(source, self._limits, self.now)
        return found

    def pace(self, target: Target) -> Pace:
        found = self._paces.get(target.key)
        if found is None:
            while len(self._paces) >= MAX_PACES:
                del self._paces[next(iter(self._paces))]
            found = self._paces[target.key] = Pace()
        return found

    def is_open(self, target: Target) -> bool:
        """Whether the target, or the whole upstream, is being left alone."""
        now = self.now()
        states = (
            self.gate(target.source).line.state(now),
            self.pace(target).breaker.state(now),
        )
        return "open" in states

    def begin(self, target: Target) -> None:
        """Pass both breakers, or raise ``CircuitOpen`` with the seconds to wait."""
        line, breaker = self.gate(target.source).line, self.pace(target).breaker
        if line.is_closed and breaker.is_closed:
            return
        now = self.now()
        if not line.begin(now) or not breaker.begin(now):
            line.stand_back()
            wait_s = max(line.wait_s(now), breaker.wait_s(now), QUEUE_RETRY_S)
            text = f"{target.source.name} has failed repeatedly for {target.model}."
            raise CircuitOpen(text, retry_after_s=wait_s)

    def health(self) -> list[Health]:
        """Every upstream that was asked for something."""
        now = self.now()
        found = []
        for name, gate in sorted(self._gates.items()):
            paces = {model: p for (source, model), p in self._paces.items() if source == name}
            found.append(
                Health(
                    name=name,
                    state=gate.line.state(now),
                    in_flight=gate.in_flight,
                    queued=gate.queued,
                    limit=gate.limit,
                    calls=gate.calls,
                    failures=gate.failures,
                    first_token_ms=_least(p.ewma_ms(now, is_streamed=True) for p in paces.values()),
                    plain_ms=_least(p.ewma_ms(now, is_streamed=False) for p in paces.values()),
                    resting_models=[m for m, p in paces.items() if not p.breaker.is_closed],
                )
            )
        return found


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
