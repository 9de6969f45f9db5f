"""Which calls are made, and what is to become of each: all of it from one seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from benchmarks.targets import PLAIN_MODEL, body

# One call in so many has an error that the upstream is told to make, one in so many is left.
ERROR_EVERY = 20
LEAVE_EVERY = 10
PROMPTS_BYTES: Final = (0, 0, 0, 500, 2_000, 20_000, 150_000)
STATUSES: Final = (400, 404, 429, 500, 503)
BAD_GATEWAY = 502
SERVER_FAULTS: Final = frozenset({500, 502, 503})

Moment = Literal["sending", "sent", "waiting", "reading"]


@dataclass(frozen=True, slots=True)
class Leave:
    """When a client goes: half-way through its request, right after it, so many seconds later, or
    after so many events.
    """

    moment: Moment
    after_s: float = 0.0
    after_events: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """One call. ``status`` is what a client that stays is answered; ``is_broken``: its stream ends
    before it is complete.
    """

    number: int
    script: str
    is_streamed: bool
    tells_usage: bool
    prompt_bytes: int
    status: int = 200
    is_broken: bool = False
    leave: Leave | None = None

    @property
    def body(self) -> str:
        return body(
            PLAIN_MODEL,
            stream=self.is_streamed,
            script=self.script,
            prompt_bytes=self.prompt_bytes,
            tells_usage=self.tells_usage,
        )

    @property
    def is_good(self) -> bool:
        return self.status == 200 and not self.is_broken


def plan(calls: int, seed: int) -> Iterator[Planned]:
    """The calls, numbered from one."""
    for number in range(1, calls + 1):
        yield _planned(number, random.Random(f"{seed}/{number}"))


def _planned(number: int, draw: random.Random) -> Planned:
    tokens = f"-p{draw.randrange(1, 5000)}-c{draw.randrange(1, 900)}-k{draw.randrange(2)}"
    common = Planned(
        number=number,
        script=f"call-{number}{tokens}",
        is_streamed=draw.random() < 0.5,
        tells_usage=draw.random() < 0.5,
        prompt_bytes=draw.choice(PROMPTS_BYTES),
    )
    if number % LEAVE_EVERY == 3:
        pace = f"-n40-d{draw.randrange(2, 8)}-w{draw.randrange(80)}"
        slow = pace if common.is_streamed else f"-d{draw.randrange(30, 200)}"
        leave = _leave(draw, is_streamed=common.is_streamed)
        return replace(common, script=common.script + slow, leave=leave)
    if number % ERROR_EVERY == 7:
        return _failing(common, draw)
    pace = f"-n{draw.randrange(1, 30)}-d{draw.randrange(3)}"
    slow = pace if common.is_streamed else f"-d{draw.choice((0, 0, 0, 5))}"
    return replace(common, script=common.script + slow)


def _failing(common: Planned, draw: random.Random) -> Planned:
    """Refused, or broken off: in place of an answer, or in the middle of a stream."""
    status = draw.choice((*STATUSES, BAD_GATEWAY, BAD_GATEWAY))
    if status != BAD_GATEWAY:
        return replace(common, script=f"{common.script}-e{status}", status=status)
    if common.is_streamed:
        breaks = f"-n20-x{draw.randrange(1, 15)}"
        return replace(common, script=common.script + breaks, is_broken=True)
    return replace(common, script=f"{common.script}-x0", status=BAD_GATEWAY)


def _leave(draw: random.Random, *, is_streamed: bool) -> Leave:
    """A moment in any phase of the call."""
    moments: list[Moment] = ["sending", "sent", "waiting", "waiting", "waiting"]
    moment = draw.choice([*moments, "reading", "reading", "reading"] if is_streamed else moments)
    if moment == "reading":
        return Leave(moment, after_events=draw.randrange(1, 35))
    return Leave(moment, after_s=draw.uniform(0, 0.15) if moment == "waiting" else 0.0)
