"""Holds in Redis or Valkey: one count for every process, on Redis' own clock."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from app.kernel import log
from app.kernel.errors import Unavailable
from app.modules.billing.adapters.scripts import AMEND, TAKE
from app.modules.billing.domain.faults import (
    RUNNING_RETRY_S,
    BudgetSpent,
    LimitReached,
    budget_spent,
    limit_reached,
    too_many_tokens,
)
from app.modules.billing.domain.limits import Bound, Bounds, Period
from app.modules.billing.domain.periods import Spent, month_of
from app.modules.billing.domain.standings import Standing
from app.modules.billing.domain.windows import SLOTS
from app.modules.billing.ports import Addition, Hold, Receipt, Taken

PREFIX: Final = "insula:holds:"
TIMEOUT_S: Final = 5.0
RETRIES: Final = 2
SUBJECTS_A_PIPELINE: Final = 200
MAX_WAITING: Final = 100_000
MAX_ADDITIONS: Final = 64
MAX_ENDED: Final = 10_000

_log = log.get("billing")
_pack = msgspec.msgpack.Encoder().encode


class HoldsDown(Unavailable):
    """Redis does not answer, and nobody may spend what nobody counts."""

    title = "Limits unavailable"


class HoldTimes(msgspec.Struct, frozen=True):
    """Seconds. A process vouches every ``vouch_s`` for what it holds, up to ``longest_call_s``.

    What nobody vouches for ends after ``lease_s``. What is spent is asked for again every
    ``fresh_s``, which is sooner: so what a dead process has stored counts before its hold ends.
    """

    window_s: float = 60.0
    lease_s: float = 60.0
    vouch_s: float = 5.0
    fresh_s: float = 30.0
    longest_call_s: float = 3600.0


class Amendment(msgspec.Struct):
    """What Redis is still to be told of one subject. ``still_runs`` are calls and their nanos."""

    ended: list[tuple[str, int]] = []
    still_runs: list[tuple[str, int]] = []
    additions: list[Addition] = []
    is_unsure: bool = False

    def absorb(self, earlier: "Amendment") -> None:
        """Come after ``earlier``, which was not delivered. Who has ended does not run again."""
        self.ended = earlier.ended + self.ended
        self.additions = earlier.additions + self.additions
        self.is_unsure = self.is_unsure or earlier.is_unsure


class RedisHolds:
    """Implements ``ports.Holds``. What ends is told in the background, in batches.

    A batch that fails is told again: every step of it may happen twice.
    """

    def __init__(
        self,
        url: str,
        times: HoldTimes = HoldTimes(),  # noqa: B008 - it is frozen
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        most_waiting: int = MAX_WAITING,
    ) -> None:
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(ExponentialBackoff(), RETRIES),
        )
        self._take = self._redis.register_script(TAKE)
        self._amend = self._redis.register_script(AMEND)
        self._times = times
        self._monotonic = monotonic
        self._wall = wall
        self._most_waiting = most_waiting
        self._process = secrets.token_hex(8)
        self._sequence = 0
        self._holds: dict[int, tuple[Hold, float]] = {}
        self._owed: dict[str, int] = {}
        self._waiting: dict[str, Amendment] = {}
        self._delivery: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[list[Any]]] = set()
        self._vouched_s = monotonic()
        # After a failure, until somebody tends: a Redis that is gone is asked once a second.
        self._rests = False

    @property
    def waiting(self) -> int:
        """Of how many subjects Redis is still to be told something."""
        return len(self._waiting)

    async def take(self, hold: Hold, spent: Mapping[str, Spent]) -> Taken:
        asking = asyncio.create_task(self._ask(hold.id.hex, hold, spent))
        try:
            reply = await asyncio.shield(asking)
        except HoldsDown:
            # Redis may have it all the same, and nobody would ever end it.
            self._end(hold, 0)
            raise
        except asyncio.CancelledError:
            # It may be given only after it was given back, were the answer not waited for.
            self._asking.add(asking)
            asking.add_done_callback(partial(self._give_back, hold))
            raise
        if reply[0] == b"refused":
            raise self._refused(hold, *reply[1:])
        taken = _taken(hold.bounds, reply)
        if not taken.missing:
            self._holds[hold.id.int] = (hold, self._monotonic())
        return taken

    async def look(self, bounds: Bounds, spent: Mapping[str, Spent]) -> Taken:
        nothing = Hold(UUID(int=0), 0, 0, bounds)
        return _taken(bounds, await self._ask("", nothing, spent))

    def end(self, call_id: UUID, tokens: int, owed_nanos: int, bounds: Bounds) -> Bounds:
        found = self._holds.pop(call_id.int, None)
        if found is not None:
            bounds = found[0].bounds
            self._end(found[0], tokens)
        if owed_nanos:
            for bound in bounds:
                if bound.budgets:
                    self._owe(bound.subject, owed_nanos)
        return bounds

    def receive(self, receipt: Receipt) -> None:
        for one in receipt.additions:
            amendment = self._amendment(one.subject)
            amendment.additions.append(one)
            if len(amendment.additions) > MAX_ADDITIONS:
                amendment.additions.clear()
                amendment.is_unsure = True
        for subject in receipt.unsure:
            self._amendment(subject).is_unsure = True
        for subject, nanos in receipt.paid.items():
            self._owe(subject, -nanos)
        self._deliver_soon()

    async def tend(self) -> None:
        now_s = self._monotonic()
        if now_s - self._vouched_s >= self._times.vouch_s:
            self._vouched_s = now_s
            self._vouch(now_s - self._times.longest_call_s)
        self._rests = False
        self._deliver_soon()

    async def close(self) -> None:
        """Tell what can still be told."""
        if self._asking:
            await asyncio.wait(self._asking)
        self._rests = False
        self._deliver_soon()
        if self._delivery is not None:
            await self._delivery
        with suppress(RedisError, OSError):
            await self._redis.aclose()

    async def _ask(self, call: str, hold: Hold, spent: Mapping[str, Spent]) -> list[Any]:
        times = self._times
        told = [_told(spent.get(bound.subject)) for bound in hold.bounds]
        asked = _pack(
            (
                int(times.window_s * 1000 / SLOTS),
                int(times.lease_s * 1000),
                int(times.fresh_s * 1000),
                call,
                hold.tokens,
                hold.cost_nanos,
                [_limits(bound, one) for bound, one in zip(hold.bounds, told, strict=True)],
            )
        )
        keys = [PREFIX + bound.subject for bound in hold.bounds]
        try:
            reply: list[Any] = await self._take(keys=keys, args=[asked])
        except (RedisError, OSError) as error:
            raise HoldsDown("Limits cannot be checked now; try again in a moment.") from error
        return reply

    def _refused(
        self, hold: Hold, index: int, name: bytes, wait_ms: int, budget_index: int
    ) -> LimitReached | BudgetSpent:
        bound, wait_s = hold.bounds[index - 1], wait_ms / 1000
        if name == b"rpm":
            return limit_reached("rpm", bound.rpm, bound.rpm_holder, wait_s)
        if name == b"tpm":
            return limit_reached("tpm", bound.tpm, bound.tpm_holder, wait_s)
        if name == b"tokens":
            return too_many_tokens(hold.tokens, bound.tpm, bound.tpm_holder, wait_s)
        if name == b"parallel":
            holder = bound.parallel_holder
            return limit_reached("parallel", bound.parallel, holder, RUNNING_RETRY_S)
        budget = bound.budgets[budget_index - 1]
        return budget_spent(budget, int(self._wall() * 1000), is_held=name == b"held")

    def _give_back(self, hold: Hold, asked: "asyncio.Task[list[Any]]") -> None:
        """The caller has left while Redis was asked: whatever it has answered, nothing is held."""
        self._asking.discard(asked)
        if not asked.cancelled() and asked.exception() is None:
            self._end(hold, 0)

    def _end(self, hold: Hold, tokens: int) -> None:
        for bound in hold.bounds:
            ended = self._amendment(bound.subject).ended
            ended.append((hold.id.hex, tokens))
            # Without word of it, a hold ends when its lease does.
            del ended[:-MAX_ENDED]
        self._deliver_soon()

    def _owe(self, subject: str, nanos: int) -> None:
        self._owed[subject] = self._owed.get(subject, 0) + nanos
        self._amendment(subject)
        self._deliver_soon()

    def _amendment(self, subject: str) -> Amendment:
        found = self._waiting.get(subject)
        if found is None:
            # What is dropped mends itself: holds end, and what is spent is asked for again.
            while len(self._waiting) >= self._most_waiting:
                del self._waiting[next(iter(self._waiting))]
            found = self._waiting[subject] = Amendment()
        return found

    def _vouch(self, since_s: float) -> None:
        """Say what this process holds. What it holds for too long, nobody ended: let it go."""
        for number, (hold, taken_s) in list(self._holds.items()):
            if taken_s <= since_s:
                del self._holds[number]
                continue
            for bound in hold.bounds:
                runs = self._amendment(bound.subject).still_runs
                runs.append((hold.id.hex, hold.cost_nanos))
        for subject in self._owed:
            self._amendment(subject)

    def _deliver_soon(self) -> None:
        is_busy = self._delivery is not None and not self._delivery.done()
        if self._waiting and not is_busy and not self._rests:
            self._delivery = asyncio.create_task(self._deliver(), name="billing-holds")

    async def _deliver(self) -> None:
        """Tell Redis all that waits, at most so many subjects at once."""
        while self._waiting:
            subjects = list(self._waiting)[:SUBJECTS_A_PIPELINE]
            batch = {subject: self._waiting.pop(subject) for subject in subjects}
            try:
                await self._send(batch)
            except (RedisError, OSError) as error:
                self._keep(batch)
                self._rests = True
                _log.warning("billing.holds-wait-for-redis", reason=type(error).__name__)
                return

    async def _send(self, batch: Mapping[str, Amendment]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for subject, amendment in batch.items():
                asked = self._amended(subject, amendment)
                await self._amend(keys=[PREFIX + subject], args=[asked], client=pipeline)
            await pipeline.execute()

    def _amended(self, subject: str, amendment: Amendment) -> bytes:
        owed = self._owed.get(subject)
        if owed == 0:
            del self._owed[subject]
        self._sequence += 1
        ended = {call for call, _ in amendment.ended}
        return _pack(
            (
                int(self._times.window_s * 1000 / SLOTS),
                int(self._times.lease_s * 1000),
                amendment.ended,
                [one for one in amendment.still_runs if one[0] not in ended],
                () if owed is None else (self._process, self._sequence, owed),
                [(a.version, a.day, month_of(a.day), a.nanos) for a in amendment.additions],
                int(amendment.is_unsure),
            )
        )

    def _keep(self, batch: Mapping[str, Amendment]) -> None:
        """Put back what was not delivered, before what came since."""
        for subject, earlier in batch.items():
            self._owed.setdefault(subject, 0)
            self._amendment(subject).absorb(earlier)


def _limits(bound: Bound, told: Sequence[int]) -> tuple[Any, ...]:
    budgets = [(budget.period, budget.nanos) for budget in bound.budgets]
    return (bound.rpm, bound.tpm, bound.parallel, budgets, told)


def _told(spent: Spent | None) -> Sequence[int]:
    return () if spent is None else msgspec.structs.astuple(spent)


def _taken(bounds: Bounds, reply: Sequence[Any]) -> Taken:
    if reply[0] == b"missing":
        return Taken(missing=tuple(bounds[index - 1].subject for index in reply[1:]))
    rows = [reply[1 + 8 * n : 9 + 8 * n] for n in range(len(bounds))]
    return Taken(standings=tuple(_standing(row) for row in rows))


def _standing(row: Sequence[int]) -> Standing:
    requests, tokens, running, held, reset_ms, total, month, day = row
    spent: dict[Period, int] = {"total": total, "month": month, "day": day}
    return Standing(requests, tokens, running, held, reset_ms / 1000, spent)
