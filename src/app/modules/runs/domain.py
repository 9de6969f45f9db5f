"""What a run may do next, and what becomes of it when its process is gone."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

Ending: TypeAlias = Literal[
    "completed", "failed", "timed_out", "cancelled", "interrupted", "unknown"
]
Status: TypeAlias = Literal["pending", "running", "awaiting"] | Ending
Recovery: TypeAlias = Literal["continue", "interrupt"]
Verdict: TypeAlias = Literal["again", "interrupted", "unknown"]

FINAL: Final[frozenset[Status]] = frozenset(
    {"completed", "failed", "timed_out", "cancelled", "interrupted", "unknown"}
)
LIVE: Final[frozenset[Status]] = frozenset({"running", "awaiting"})
MOVES: Final[Mapping[Status, frozenset[Status]]] = {
    "pending": frozenset({"running", "failed", "cancelled"}),
    "running": FINAL | {"running", "awaiting"},
    "awaiting": FINAL | {"running"},
}

STATUS: Final = "status"
EFFECT_BEGUN: Final = "effect.begun"
EFFECT_DONE: Final = "effect.done"


class Event(msgspec.Struct, frozen=True):
    """One entry of a run's log. ``data`` is a JSON object; ``at_ms`` is Unix milliseconds."""

    seq: int
    name: str
    data: dict[str, Any]
    at_ms: int


class Search(msgspec.Struct, frozen=True):
    """Which of a user's runs: ``None`` and nothing leave it open. ``before`` is a run's id."""

    user_id: UUID
    kind: str | None = None
    title: str | None = None
    statuses: tuple[Status, ...] = ()
    before: UUID | None = None
    offset: int = 0
    limit: int = 50


class Effects(msgspec.Struct):
    """Effects outside of the house, by key: those with a result, and those that were only begun.

    ``begun`` says of each whether it may be done twice.
    """

    done: dict[str, Any] = {}
    begun: dict[str, bool] = {}


def effects_of(events: Iterable[Event], before: Effects | None = None) -> Effects:
    """What a log says of its run's effects; ``before`` is what its earlier pages said."""
    found = before or Effects()
    for event in events:
        key = event.data.get("key", "")
        if event.name == EFFECT_BEGUN:
            found.begun[key] = bool(event.data.get("is_idempotent"))
        elif event.name == EFFECT_DONE:
            found.begun.pop(key, None)
            found.done[key] = event.data.get("result")
    return found


def sources_of(status: Status) -> frozenset[Status]:
    """The states from which a run may come into this one."""
    return frozenset(source for source, targets in MOVES.items() if status in targets)


def after_crash(recovery: Recovery, effects: Effects) -> Verdict:
    """What becomes of a run whose process has gone in the middle of it.

    An effect that was begun, has no result and may not be done twice has happened or has not:
    nobody can tell, so nobody says.
    """
    if not all(effects.begun.values()):
        return "unknown"
    return "again" if recovery == "continue" else "interrupted"
