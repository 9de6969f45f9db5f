"""What a method does, step by step, for a client of either kind to take the steps.

A plan is a generator. It yields what to send and how long to pause, is given what
came of it, and returns the value of the method.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, Callable, Generator, TypeVar, Union

from ai_spine import _endpoints
from ai_spine._call import JSON, Call, Fault, Outcome
from ai_spine._decode import decode
from ai_spine._pages import Pages
from ai_spine._retry import pause_s
from ai_spine._settings import Settings, checked_timeout
from ai_spine.exceptions import TimeoutError
from ai_spine.models import FINAL_STATUSES, Execution

T = TypeVar("T")

INTERVAL_MIN_S = 0.05
NEVER = float("inf")


@dataclass(frozen=True)
class Send:
    """One attempt, and the time for all of it.

    A stream has no such end: there, only silence may not last longer than it should.
    """

    call: Call[Any]
    timeout_s: float
    silence_s: float | None = None


@dataclass(frozen=True)
class Pause:
    """Nothing for a while."""

    seconds: float


Plan = Generator[Union[Send, Pause], Any, T]


class DeadlinePassed(TimeoutError):
    """The time of the whole plan is over."""


class Planner:
    """Makes the plans of one client. It has no state, so threads may share it."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._chance = chance

    def send(self, call: Call[T], deadline_at: float = NEVER) -> Plan[T]:
        """Send until there is an answer worth having, and read it."""
        retry = 0
        while True:
            attempt = self.attempt(call, deadline_at)
            outcome = yield attempt
            pause = self.pause_s(call, outcome, retry)
            if pause is None:
                break
            self.left_s(deadline_at, pause)
            yield Pause(pause)
            retry += 1
        if isinstance(outcome, Fault) and outcome.is_late:
            self.left_s(deadline_at)
        value: T = self.decode(attempt, outcome)
        return value

    def decode(self, attempt: Send, outcome: Outcome) -> Any:
        """What the call returns, or the error that it ended with."""
        key = self._settings.api_key
        return decode(attempt.call, outcome, key, attempt.timeout_s)

    def attempt(
        self,
        call: Call[Any],
        deadline_at: float = NEVER,
        silence_max_s: float | None = None,
    ) -> Send:
        """An attempt that has no more time than there is."""
        left_s = self.left_s(deadline_at)
        silence_s = min(silence_max_s, left_s) if silence_max_s else None
        return Send(call, min(self._settings.timeout_s, left_s), silence_s)

    def pause_s(self, call: Call[Any], outcome: Outcome, retry: int) -> float | None:
        """Seconds until the next attempt; ``None`` when this was the last one."""
        if retry == self._settings.max_retries:
            return None
        return pause_s(call, outcome, retry, self._chance())

    def collect(self, pages: Pages) -> Plan[list[JSON]]:
        """All that is on all pages."""
        items: list[JSON] = []
        while not pages.is_over:
            items += pages.take((yield from self.send(pages.call)))
        return items

    def wait(self, execution_id: str, timeout: float, interval: float) -> Plan[JSON]:
        """Ask until the execution has ended, however it did."""
        deadline_at = self.deadline_at(timeout)
        return (yield from self._wait(execution_id, deadline_at, timeout, interval))

    def run(self, call: Call[JSON], timeout: float, interval: float) -> Plan[JSON]:
        """Start an execution and wait until it has completed; it is an error if not."""
        deadline_at = self.deadline_at(timeout)
        checked_timeout("interval", interval)
        try:
            started = yield from self.send(call, deadline_at)
        except DeadlinePassed:
            raise TimeoutError(f"No answer within {timeout} s.", timeout) from None
        execution_id = started["execution_id"]
        ended = yield from self._wait(execution_id, deadline_at, timeout, interval)
        Execution.from_dict(ended).raise_for_status()
        return ended

    def _wait(
        self, execution_id: str, deadline_at: float, timeout: float, interval: float
    ) -> Plan[JSON]:
        interval_s = max(INTERVAL_MIN_S, checked_timeout("interval", interval))
        call = _endpoints.get_execution(execution_id)
        status = "not known"
        try:
            while True:
                execution = yield from self.send(call, deadline_at)
                status = str(execution.get("status"))
                if status in FINAL_STATUSES:
                    return execution
                yield Pause(self._until_next_look_s(deadline_at, interval_s))
        except DeadlinePassed:
            text = f"The state of execution {execution_id} is {status}"
            raise TimeoutError(
                f"{text} after {timeout} s.", timeout, execution_id
            ) from None

    def _until_next_look_s(self, deadline_at: float, interval_s: float) -> float:
        """The interval; in the last one more often, so that no late end is missed."""
        left_s = self.left_s(deadline_at)
        if left_s > interval_s:
            return interval_s
        return min(left_s, max(left_s / 2, INTERVAL_MIN_S))

    def deadline_at(self, timeout: float | None) -> float:
        """When ``timeout`` seconds from now are over."""
        if timeout is None:
            return NEVER
        return self._clock() + checked_timeout("timeout", timeout)

    def left_s(self, deadline_at: float, needed_s: float = 0.0) -> float:
        """Seconds that are left; raises when they are not more than needed."""
        left_s = deadline_at - self._clock()
        if left_s <= needed_s:
            raise DeadlinePassed("The time is over.")
        return left_s
