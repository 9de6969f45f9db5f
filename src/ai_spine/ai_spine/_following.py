"""An execution's events, over as many connections as it takes."""

from __future__ import annotations

import json
from typing import Callable, TypeVar

from ai_spine import _endpoints, _sse
from ai_spine._call import JSON, Answer, Fault, Outcome
from ai_spine._plans import DeadlinePassed, Planner, Send
from ai_spine.exceptions import APIError, TimeoutError

T = TypeVar("T")

RECONNECTS_MAX = 1_000
# A stream that is alive says so every 15 seconds.
SILENCE_MAX_S = 45.0
LAST_EVENT = "result"
_BROKEN_OFF = Fault(
    "the stream ended before the execution", is_sent=True, is_late=False
)


class Following:
    """Where a stream is. After ``result`` it ``is_over``."""

    def __init__(
        self,
        planner: Planner,
        execution_id: str,
        timeout: float | None,
        last_event_id: str | None,
    ) -> None:
        self.is_over = False
        self._planner = planner
        self._execution_id = execution_id
        self._timeout = timeout
        self._deadline_at = planner.deadline_at(timeout)
        self._parser = _sse.Parser(last_event_id or "")
        self._attempt = self._next()
        self._ended: Outcome = _BROKEN_OFF
        self._fruitless = 0
        self._reconnects = 0

    def open(self) -> Send:
        """What opens the next connection."""
        self._parser = _sse.Parser(self._parser.last_id)
        self._ended = _BROKEN_OFF
        self._attempt = self._in_time(self._next)
        return self._attempt

    def take(self, piece: bytes | Outcome) -> list[JSON]:
        """The events that end in a piece. An outcome says why no more come."""
        if not isinstance(piece, bytes):
            self._ended = piece
            return []
        events = []
        for message in self._parser.feed(piece):
            events.append(_event(message))
            self._fruitless = 0
            if message.event == LAST_EVENT:
                self.is_over = True
                return events
        self._in_time(lambda: self._planner.left_s(self._deadline_at))
        return events

    def pause_s(self) -> float:
        """Seconds until the next connection; raises when there must be none."""
        call = self._attempt.call
        pause = self._planner.pause_s(call, self._ended, self._fruitless)
        self._fruitless += 1
        self._reconnects += 1
        if pause is None or self._reconnects > RECONNECTS_MAX:
            self._planner.decode(self._attempt, self._ended)
            raise APIError("The answer is no stream of events. Check base_url.")
        wanted = self._parser.retry_s
        if wanted is not None and not isinstance(self._ended, Answer):
            pause = wanted
        self._in_time(lambda: self._planner.left_s(self._deadline_at, pause))
        return pause

    def _next(self) -> Send:
        last_id = self._parser.last_id
        call = _endpoints.stream_execution(self._execution_id, last_id)
        return self._planner.attempt(call, self._deadline_at, SILENCE_MAX_S)

    def _in_time(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except DeadlinePassed:
            text = f"Execution {self._execution_id} goes on after {self._timeout} s."
            raise TimeoutError(text, self._timeout, self._execution_id) from None


def _event(message: _sse.Message) -> JSON:
    try:
        data = json.loads(message.data)
    except (ValueError, RecursionError):
        raise APIError("An event is no JSON. Check base_url.") from None
    return {"event": message.event, "id": message.event_id, "data": data}
