"""HTTP of runs."""

from collections.abc import AsyncIterator
from typing import Annotated, Final
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter
from litestar.response import Stream
from litestar.status_codes import HTTP_200_OK

from app.kernel.db import Page
from app.modules.auth.api import Principal
from app.modules.runs.api import KEEP_ALIVE, CursorMalformed, paced, seq_of
from app.modules.runs.domain import Event, Search, Status
from app.modules.runs.schemas import RunRead, event_frame
from app.modules.runs.service.runs import RunService

MAX_PAGE = 500
STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class RunController(Controller):
    path = "/api/v1/runs"
    tags = ("runs",)

    @get(summary="Your runs, newest first")
    async def list(
        self,
        principal: NamedDependency[Principal],
        run_service: NamedDependency[RunService],
        kind: FromQuery[str | None] = None,
        status: FromQuery[Status | None] = None,
        cursor: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 50,
    ) -> Page[RunRead]:
        search = Search(
            principal.user_id,
            kind,
            statuses=(status,) if status else (),
            before=_cursor(cursor),
            limit=limit,
        )
        runs = await run_service.page(search)
        following = str(runs[-1].id) if len(runs) == limit else None
        return Page([RunRead.of(run) for run in runs], following)

    @get("/{run_id:uuid}", summary="A run")
    async def read(
        self,
        principal: NamedDependency[Principal],
        run_service: NamedDependency[RunService],
        run_id: FromPath[UUID],
    ) -> RunRead:
        return RunRead.of(await run_service.get(principal.user_id, run_id))

    @get("/{run_id:uuid}/events", summary="What happened and happens in a run, as it comes")
    async def events(
        self,
        principal: NamedDependency[Principal],
        run_service: NamedDependency[RunService],
        run_id: FromPath[UUID],
        last_event_id: Annotated[str | None, HeaderParameter(name="last-event-id")] = None,
    ) -> Stream:
        """Server-sent events from the first one on, or from behind `Last-Event-ID`; the stream
        ends with the run.
        """
        after_seq = seq_of(last_event_id)
        await run_service.get(principal.user_id, run_id)
        events = run_service.follow(principal.user_id, run_id, after_seq=after_seq)
        return Stream(_framed(events), media_type="text/event-stream", headers=STREAM_HEADERS)

    @post("/{run_id:uuid}/cancel", status_code=HTTP_200_OK, summary="End a run and stop its work")
    async def cancel(
        self,
        principal: NamedDependency[Principal],
        run_service: NamedDependency[RunService],
        run_id: FromPath[UUID],
    ) -> RunRead:
        """A run that has ended already stays as it is."""
        return RunRead.of(await run_service.cancel(principal.user_id, run_id))


async def _framed(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """Frame events, and say in long silences that we are here."""
    async with paced(events) as told:
        async for event in told:
            yield KEEP_ALIVE if event is None else event_frame(event)


def _cursor(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise CursorMalformed("cursor is the `next` of the page before.") from None
