"""Takes the steps of a plan by hand: outcomes by a list, and a clock that only pauses move."""

import json
from typing import Any

from ai_spine._call import Answer, Fault, Outcome
from ai_spine._plans import Pause, Planner, Send
from ai_spine._settings import Settings

REFUSED = Fault("refused", is_sent=False, is_late=False)
LOST = Fault("reset", is_sent=True, is_late=False)
LATE = Fault("late", is_sent=True, is_late=True)


def said(body: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, json.dumps(body).encode())


class Hand:
    """``sends`` and ``pauses`` are the steps that were taken; ``now`` is the time."""

    def __init__(self, *, timeout_s: float = 30.0, max_retries: int = 3) -> None:
        self.now = 1000.0
        self.sends: list[Send] = []
        self.pauses: list[float] = []
        settings = Settings("http://spine.test", "", timeout_s, max_retries, debug=False)
        self.planner = Planner(settings, clock=lambda: self.now, chance=lambda: 0.5)

    def take(self, plan: Any, *outcomes: Outcome, each_takes_s: float = 0.0) -> Any:
        """Run a plan; the last outcome is had for ever. A late one takes its whole time."""
        waiting = list(outcomes)
        outcome = None
        try:
            while True:
                step, outcome = plan.send(outcome), None
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self.now += step.seconds
                    continue
                self.sends.append(step)
                outcome = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                self.now += step.timeout_s if outcome is LATE else each_takes_s
        except StopIteration as end:
            return end.value
