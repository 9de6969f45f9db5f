"""A sliding minute that never lets more through than its limit.

This is the sliding window log, the one rate algorithm that is exact for any window (token buckets,
GCRA among them, pass their burst beside the rate, and two counters weighted by time only estimate),
kept in slots of a sixtieth: a slot counts until all of it has left the window. So the sum that a
call is measured by covers at least the last minute, at most a sixtieth more, and what is kept is
bounded however high the limit is (Datar et al., "Maintaining Stream Statistics over Sliding
Windows", 2002, on why buckets must leave whole).
"""

from collections import deque
from typing import Final, TypeAlias

SLOTS: Final = 60
NEVER: Final = 1 << 62

# The number of the slot, the requests in it, their tokens.
Slot: TypeAlias = list[int]


class Window:
    """Requests and tokens of the last minute. Slots are numbered in time, by whoever counts.

    ``oldest`` is the first slot that counts: ``slide`` has nothing to do before it leaves.
    """

    __slots__ = ("_slots", "oldest", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        self.oldest = NEVER
        self._slots: deque[Slot] = deque()

    def slide(self, now: int) -> None:
        """Forget the slots that have left when the slot ``now`` is the current one."""
        slots, oldest = self._slots, now - SLOTS
        while slots and slots[0][0] < oldest:
            _, requests, tokens = slots.popleft()
            self.requests -= requests
            self.tokens -= tokens
        self.oldest = slots[0][0] if slots else NEVER

    def add(self, now: int, tokens: int) -> Slot:
        """Count a request, and return the slot that it is in, for ``correct``."""
        slots = self._slots
        if slots and slots[-1][0] >= now:
            slot = slots[-1]
        else:
            slot = [now, 0, 0]
            slots.append(slot)
            self.oldest = slots[0][0]
        slot[1] += 1
        slot[2] += tokens
        self.requests += 1
        self.tokens += tokens
        return slot

    def correct(self, slot: Slot, tokens: int) -> None:
        """Add to the tokens of a slot, or take from them, unless the slot has left."""
        if self.oldest <= slot[0]:
            slot[2] += tokens
            self.tokens += tokens

    def slots_until_requests_fit(self, now: int, limit: int) -> int:
        """How many slots from ``now`` on one more request is within ``limit``."""
        return self._until(now, self.requests + 1 - limit, 1)

    def slots_until_tokens_fit(self, now: int, tokens: int, limit: int) -> int:
        """The same for ``tokens`` more."""
        return self._until(now, self.tokens + tokens - limit, 2)

    @property
    def newest(self) -> int | None:
        """The slot of the last request that counts."""
        return self._slots[-1][0] if self._slots else None

    def _until(self, now: int, excess: int, column: int) -> int:
        for slot in self._slots:
            excess -= slot[column]
            if excess <= 0:
                return slot[0] + SLOTS + 1 - now
        return SLOTS + 1
