"""Holds in this process: the embedded default, for one process alone."""

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final
from uuid import UUID

import msgspec

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
from app.modules.billing.domain.standings import Remaining, Standing, Use, remaining_of
from app.modules.billing.domain.windows import SLOTS, Slot, Window
from app.modules.billing.ports import Hold, Receipt, Taken

WINDOW_S: Final = 60.0
DAY_S: Final = 86_400
PERIODS: Final[tuple[Period, ...]] = ("day", "month", "total")
# Longer than any call: what is held until then is a call that nobody ended.
LONGEST_CALL_S: Final = 3600.0
SOME: Final = 1000


class Tab(Window):
    """What is counted of one subject. ``spent`` is ``None`` until somebody has told it.

    ``room`` is what the budgets of ``measured`` leave beside ``spent``, before ``measured_until``.
    """

    __slots__ = ("held", "measured", "measured_until", "owed", "room", "running", "spent")

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self.held = 0
        self.owed = 0
        self.spent: Spent | None = None
        self.measured: Bound | None = None
        self.measured_until = 0
        self.room = 0

    @property
    def is_idle(self) -> bool:
        return not (self.running or self.owed or self.requests)

    def learn(self, spent: Spent | None) -> None:
        self.spent = spent
        self.measured = None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One hold, and where it is counted."""

    hold: Hold
    places: list[tuple[Tab, Slot]]
    since_s: float


class MemoryHolds:
    """Implements ``ports.NearHolds``. ``monotonic`` and ``wall`` are clocks in seconds."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        window_s: float = WINDOW_S,
        longest_call_s: float = LONGEST_CALL_S,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._slots_a_second = SLOTS / window_s
        self._longest_call_s = longest_call_s
        self._tabs: dict[str, Tab] = {}
        self._entries: dict[int, Entry] = {}

    @property
    def subjects(self) -> int:
        """How many subjects are remembered."""
        return len(self._tabs)

    def take_now(self, hold: Hold) -> bool:
        now_s = self._monotonic()
        slot = int(now_s * self._slots_a_second)
        entries, tokens, nanos, tabs = self._entries, hold.tokens, hold.cost_nanos, []
        number = hold.id.int
        if number in entries:
            return True
        for bound in hold.bounds:
            tab = self._tabs.get(bound.subject) or self._tab(bound.subject)
            if tab.oldest < slot - SLOTS:
                tab.slide(slot)
            if (
                tab.requests >= bound.rpm
                or tab.tokens + tokens > bound.tpm
                or tab.running >= bound.parallel
            ):
                raise self._refusal(tab, bound, hold, now_s)
            if bound.budgets and not self._is_affordable(tab, bound, hold, slot):
                return False
            tabs.append(tab)
        places = []
        for tab in tabs:
            tab.running += 1
            tab.held += nanos
            places.append((tab, tab.add(slot, tokens)))
        entries[number] = Entry(hold, places, now_s)
        return True

    def remaining_now(self, bounds: Bounds) -> Remaining | None:
        slots = self._monotonic() * self._slots_a_second
        slot, uses = int(slots), []
        for bound in bounds:
            tab = self._tabs.get(bound.subject)
            if tab is None:
                uses.append(Use(bound, 0, 0, 0.0))
                continue
            if tab.oldest < slot - SLOTS:
                tab.slide(slot)
            uses.append(Use(bound, tab.requests, tab.tokens, self._reset_s(tab, slots)))
        return remaining_of(uses)

    async def take(self, hold: Hold, spent: Mapping[str, Spent]) -> Taken:
        self._learn(spent)
        if self.take_now(hold):
            return Taken(standings=self._look(hold.bounds))
        return Taken(missing=self._missing(hold.bounds))

    async def look(self, bounds: Bounds, spent: Mapping[str, Spent]) -> Taken:
        self._learn(spent)
        if missing := self._missing(bounds):
            return Taken(missing=missing)
        return Taken(standings=self._look(bounds))

    def end(self, call_id: UUID, tokens: int, owed_nanos: int, bounds: Bounds) -> Bounds:
        entry = self._entries.pop(call_id.int, None)
        if entry is not None:
            hold = entry.hold
            bounds = hold.bounds
            for tab, slot in entry.places:
                tab.running -= 1
                tab.held -= hold.cost_nanos
                tab.correct(slot, tokens - hold.tokens)
        if owed_nanos:
            for bound in bounds:
                if bound.budgets:
                    self._tab(bound.subject).owed += owed_nanos
        return bounds

    def receive(self, receipt: Receipt) -> None:
        for subject, nanos in receipt.paid.items():
            self._tab(subject).owed -= nanos
        for one in receipt.additions:
            tab = self._tabs.get(one.subject)
            if tab is not None and tab.spent is not None and one.version > tab.spent.version:
                tab.learn(tab.spent.plus(one.day, one.nanos, version=one.version))
        for subject in receipt.unsure & self._tabs.keys():
            self._tabs[subject].learn(None)

    async def tend(self) -> None:
        """Look at some subjects in turn, and forget those of which nothing is left to count."""
        now_s = self._monotonic()
        for entry in list(islice(self._entries.values(), SOME)):
            if entry.since_s > now_s - self._longest_call_s:
                break
            self.end(entry.hold.id, entry.hold.tokens, 0, ())
        slot = int(now_s * self._slots_a_second)
        for subject in list(islice(self._tabs, SOME)):
            tab = self._tabs.pop(subject)
            tab.slide(slot)
            if not tab.is_idle:
                self._tabs[subject] = tab

    async def close(self) -> None:
        """Nothing outlives the process."""

    def _learn(self, spent: Mapping[str, Spent]) -> None:
        for subject, told in spent.items():
            self._tab(subject).learn(told)

    def _tab(self, subject: str) -> Tab:
        tab = self._tabs.get(subject)
        if tab is None:
            tab = self._tabs[subject] = Tab()
        return tab

    def _missing(self, bounds: Bounds) -> tuple[str, ...]:
        subjects = [bound.subject for bound in bounds if bound.budgets]
        return tuple(s for s in subjects if self._tab(s).spent is None)

    def _is_affordable(self, tab: Tab, bound: Bound, hold: Hold, slot: int) -> bool:
        """``False`` when nobody has told what is spent; ``BudgetSpent`` when it is too much.

        What the budgets leave is worked out once for each slot: it depends on the day.
        """
        if tab.measured is not bound or slot >= tab.measured_until:
            if tab.spent is None:
                return False
            day, month = self._date()
            tab.room = min(b.nanos - tab.spent.within(b.period, day, month) for b in bound.budgets)
            tab.measured, tab.measured_until = bound, slot + 1
        if tab.held + tab.owed + hold.cost_nanos > tab.room:
            raise self._too_expensive(tab, bound, hold)
        return True

    def _too_expensive(self, tab: Tab, bound: Bound, hold: Hold) -> BudgetSpent:
        spent, (day, month) = tab.spent or Spent(), self._date()
        rest = {b: b.nanos - spent.within(b.period, day, month) for b in bound.budgets}
        budget = min(rest, key=lambda one: rest[one])
        is_held = hold.cost_nanos + tab.owed <= rest[budget]
        return budget_spent(budget, int(self._wall() * 1000), is_held=is_held)

    def _refusal(self, tab: Tab, bound: Bound, hold: Hold, now_s: float) -> LimitReached:
        """Say which limit is reached, and how long until the call fits."""
        slot = int(now_s * self._slots_a_second)
        if tab.requests >= bound.rpm:
            slots = tab.slots_until_requests_fit(slot, bound.rpm)
            wait_s = self._wait_s(slot + slots, now_s)
            return limit_reached("rpm", bound.rpm, bound.rpm_holder, wait_s)
        if hold.tokens > bound.tpm:
            window_s = SLOTS / self._slots_a_second
            return too_many_tokens(hold.tokens, bound.tpm, bound.tpm_holder, window_s)
        if tab.tokens + hold.tokens > bound.tpm:
            slots = tab.slots_until_tokens_fit(slot, hold.tokens, bound.tpm)
            wait_s = self._wait_s(slot + slots, now_s)
            return limit_reached("tpm", bound.tpm, bound.tpm_holder, wait_s)
        holder = bound.parallel_holder
        return limit_reached("parallel", bound.parallel, holder, RUNNING_RETRY_S)

    def _wait_s(self, slot: int, now_s: float) -> float:
        return max(0.0, slot / self._slots_a_second - now_s)

    def _date(self) -> tuple[int, int]:
        day = int(self._wall() // DAY_S)
        return day, month_of(day)

    def _look(self, bounds: Bounds) -> tuple[Standing, ...]:
        slots = self._monotonic() * self._slots_a_second
        return tuple(self._standing(self._tabs.get(bound.subject), slots) for bound in bounds)

    def _standing(self, tab: Tab | None, slots: float) -> Standing:
        if tab is None:
            return Standing()
        tab.slide(int(slots))
        reset_s, held_nanos = self._reset_s(tab, slots), tab.held + tab.owed
        if tab.spent is None:
            return Standing(tab.requests, tab.tokens, tab.running, held_nanos, reset_s)
        day, month = self._date()
        spent = {period: tab.spent.within(period, day, month) for period in PERIODS}
        return Standing(tab.requests, tab.tokens, tab.running, held_nanos, reset_s, spent)

    def _reset_s(self, tab: Tab, slots: float) -> float:
        newest = tab.newest
        return 0.0 if newest is None else (newest + SLOTS + 1 - slots) / self._slots_a_second
