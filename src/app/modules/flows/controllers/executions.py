"""``/spine/flows/execute``, ``/spine/executions`` and ``/spine/messages``."""

from collections.abc import AsyncIterator
from typing import Annotated, Final
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Stream
from litestar.status_codes import HTTP_200_OK

from app.modules.auth.api import Principal
from app.modules.flows.domain.executions import ExecutionStatus
from app.modules.flows.schemas.executions import (
    ExecutionCreate,
    ExecutionCreated,
    ExecutionList,
    ExecutionRead,
    ExecutionSummary,
    MessageList,
    ResultList,
    event_frame,
    messages_of,
    result_frame,
    results_of,
)
from app.modules.flows.service.executions import Executions
from app.modules.flows.service.views import Views
from app.modules.runs.api import KEEP_ALIVE, paced, seq_of

MAX_PAGE: Final = 500
MAX_OFFSET: Final = 1_000_000
STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
KEY_LIMIT_CHARS: Final = 255

IdempotencyKey = Annotated[
    str | None, HeaderParameter(name="idempotency-key", min_length=1, max_length=KEY_LIMIT_CHARS)
]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)]
Offset = Annotated[int, QueryParameter(ge=0, le=MAX_OFFSET)]


class ExecutionController(Controller):
    tags = ("flows",)

    @post("/flows/execute", status_code=HTTP_200_OK, summary="Run a flow")
    async def execute(
        self,
        principal: NamedDependency[Principal],
        flow_executions: NamedDependency[Executions],
        data: JSONBody[ExecutionCreate],
        *,
        idempotency_key: IdempotencyKey = None,
    ) -> ExecutionCreated:
        """Answers when it is kept. The same `Idempotency-Key` starts nothing twice."""
        started = await flow_executions.start(principal, data.order, idempotency_key)
        return ExecutionCreated(started.id, started.flow_id, started.created_at)

    @get("/executions", summary="Your executions, newest first")
    async def page(
        self,
        principal: NamedDependency[Principal],
        execution_views: NamedDependency[Views],
        flow_id: FromQuery[str | None] = None,
        status: FromQuery[ExecutionStatus | None] = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> ExecutionList:
        found = await execution_views.page(principal.user_id, flow_id, status, limit, offset)
        shown = [ExecutionSummary.of(one) for one in found]
        return ExecutionList(shown, len(shown), flow_id, limit, offset)

    @get("/executions/{execution_id:uuid}", summary="An execution, as far as it is")
    async def read(
        self,
        principal: NamedDependency[Principal],
        execution_views: NamedDependency[Views],
        execution_id: FromPath[UUID],
    ) -> ExecutionRead:
        return ExecutionRead.of(await execution_views.see(principal.user_id, execution_id))

    @get("/executions/{execution_id:uuid}/results", summary="What each node gave")
    async def results(
        self,
        principal: NamedDependency[Principal],
        execution_views: NamedDependency[Views],
        execution_id: FromPath[UUID],
    ) -> ResultList:
        seen = await execution_views.see(principal.user_id, execution_id)
        results = results_of(seen)
        return ResultList(execution_id, ExecutionSummary.of(seen.execution), results, len(results))

    @get(
        ["/executions/{execution_id:uuid}/messages", "/messages/{execution_id:uuid}"],
        summary="What the nodes were asked and answered",
    )
    async def messages(
        self,
        principal: NamedDependency[Principal],
        execution_views: NamedDependency[Views],
        execution_id: FromPath[UUID],
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> MessageList:
        seen = await execution_views.see(principal.user_id, execution_id)
        shown = messages_of(seen)[offset : offset + limit]
        return MessageList(shown, len(shown), execution_id)

    @post("/executions/{execution_id:uuid}/cancel", status_code=HTTP_200_OK, summary="Stop it")
    async def cancel(
        self,
        principal: NamedDependency[Principal],
        flow_executions: NamedDependency[Executions],
        execution_views: NamedDependency[Views],
        execution_id: FromPath[UUID],
    ) -> ExecutionRead:
        """One that has completed or failed is 409; to cancel one again changes nothing."""
        await flow_executions.cancel(principal.user_id, execution_id)
        seen = await execution_views.see(principal.user_id, execution_id)
        return ExecutionRead.of(seen, message="The execution is cancelled.")

    @get(
        ["/executions/{execution_id:uuid}/events", "/executions/{execution_id:uuid}/stream"],
        summary="What happens in an execution, as it comes",
    )
    async def events(
        self,
        principal: NamedDependency[Principal],
        execution_views: NamedDependency[Views],
        execution_id: FromPath[UUID],
        last_event_id: Annotated[str | None, HeaderParameter(name="last-event-id")] = None,
    ) -> Stream:
        """Server-sent events `status`, `node` and, last, `result`; from the first one on, or from
        behind `Last-Event-ID`.
        """
        after_seq = seq_of(last_event_id)
        await execution_views.find(principal.user_id, execution_id)
        frames = _frames(execution_views, principal.user_id, execution_id, after_seq)
        return Stream(frames, media_type="text/event-stream", headers=STREAM_HEADERS)


async def _frames(
    views: Views, user_id: UUID, execution_id: UUID, after_seq: int
) -> AsyncIterator[bytes]:
    """The log's events in the words of this contract, and the result."""
    async with paced(views.follow(user_id, execution_id, after_seq=after_seq)) as events:
        async for event in events:
            frame = KEEP_ALIVE if event is None else event_frame(event)
            if frame is not None:
                yield frame
    yield result_frame(ExecutionRead.of(await views.see(user_id, execution_id)))
