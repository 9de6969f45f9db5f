"""Runs on the wire."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from app.modules.runs.api import Run
from app.modules.runs.domain import Event, Status


class RunProblem(msgspec.Struct, frozen=True):
    """Why a run did not end well."""

    code: str
    detail: str


class RunRead(msgspec.Struct, frozen=True):
    """A run. Times are Unix milliseconds."""

    id: UUID
    kind: str
    title: str
    status: Status
    last_seq: int
    created_at_ms: int
    started_at_ms: int | None
    ended_at_ms: int | None
    error: RunProblem | None

    @classmethod
    def of(cls, run: Run) -> "RunRead":
        return cls(
            id=run.id,
            kind=run.kind,
            title=run.title,
            status=run.status,
            last_seq=run.last_seq,
            created_at_ms=_ms(run.created_at),
            started_at_ms=_ms_or_none(run.started_at),
            ended_at_ms=_ms_or_none(run.ended_at),
            error=RunProblem(run.error_code, run.error) if run.error_code else None,
        )


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _ms_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _ms(moment)


_encode = msgspec.json.Encoder().encode


def event_frame(event: Event) -> bytes:
    """One server-sent event; its id is its number in the log."""
    shown: dict[str, Any] = {**event.data, "seq": event.seq, "at_ms": event.at_ms}
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.name.encode(), _encode(shown))
