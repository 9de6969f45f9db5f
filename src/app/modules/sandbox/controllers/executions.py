"""``/sandbox/execute`` and ``/sandbox/executions``."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.response import Stream
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED

from app.kernel.db import Page
from app.modules.auth.api import Principal
from app.modules.runs.api import KEEP_ALIVE, CursorMalformed, paced, seq_of
from app.modules.sandbox.schemas.executions import (
    ExecutionCreate,
    ExecutionCreated,
    ExecutionRead,
    ExecutionSummary,
    LlmResponse,
    event_frame,
    result_frame,
    text_frame,
    untold,
)
from app.modules.sandbox.service.executions import Executions
from app.modules.sandbox.service.views import Views

MAX_PAGE: Final = 500
WAIT_LIMIT_S: Final = 900.0
STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
KEY_LIMIT_CHARS: Final = 255

IdempotencyKey = Annotated[
    str | None, HeaderParameter(name="idempotency-key", min_length=1, max_length=KEY_LIMIT_CHARS)
]


class ExecuteController(Controller):
    tags = ("sandbox",)

    @post("/execute", status_code=HTTP_202_ACCEPTED, summary="Run a script")
    async def execute(  # noqa: PLR0913 - each is one part of the request
        self,
        request: Request[Any, Any, Any],
        principal: NamedDependency[Principal],
        executions: NamedDependency[Executions],
        views: NamedDependency[Views],
        data: JSONBody[ExecutionCreate],
        *,
        wait: FromQuery[bool] = False,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[ExecutionCreated | ExecutionRead]:
        """Answers at once with where to poll; with `wait=1`, when the script has ended or asks a
        language model. The same `Idempotency-Key` starts nothing twice.
        """
        execution = await executions.submit(principal, data.order, idempotency_key)
        if wait:
            found = await views.wait(principal.user_id, execution.id, within_s=WAIT_LIMIT_S)
            return Response(ExecutionRead.of(found), status_code=HTTP_200_OK)
        folder, _, _ = str(request.url.with_replacements(query="")).rpartition("/")
        poll_url = f"{folder}/executions/{execution.id}"
        created = ExecutionCreated(execution.id, execution.status, poll_url)
        return Response(created, status_code=HTTP_202_ACCEPTED)


class ExecutionController(Controller):
    path = "/executions"
    tags = ("sandbox",)

    @get(summary="Your executions, newest first")
    async def list(
        self,
        principal: NamedDependency[Principal],
        views: NamedDependency[Views],
        project: FromQuery[str | None] = None,
        cursor: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 50,
    ) -> Page[ExecutionSummary]:
        found = await views.page(principal.user_id, project, _cursor(cursor), limit)
        following = str(found[-1].id) if len(found) == limit else None
        return Page([ExecutionSummary.of(execution) for execution in found], following)

    @get("/{execution_id:uuid}", summary="An execution, as far as it is")
    async def read(
        self,
        principal: NamedDependency[Principal],
        views: NamedDependency[Views],
        execution_id: FromPath[UUID],
        *,
        wait: FromQuery[bool] = False,
    ) -> ExecutionRead:
        """With `wait=1` it answers when the script has ended or asks a language model."""
        if wait:
            await views.wait(principal.user_id, execution_id, within_s=WAIT_LIMIT_S)
        return ExecutionRead.of(await views.find(principal.user_id, execution_id))

    @post("/{execution_id:uuid}/respond", status_code=HTTP_200_OK, summary="Answer a script")
    async def respond(
        self,
        principal: NamedDependency[Principal],
        executions: NamedDependency[Executions],
        views: NamedDependency[Views],
        execution_id: FromPath[UUID],
        data: JSONBody[LlmResponse],
    ) -> ExecutionRead:
        """One answer is taken; every other one is 409."""
        await executions.respond(principal.user_id, execution_id, data.response, data.request_id)
        return ExecutionRead.of(await views.find(principal.user_id, execution_id))

    @post("/{execution_id:uuid}/cancel", status_code=HTTP_200_OK, summary="Stop a script")
    async def cancel(
        self,
        principal: NamedDependency[Principal],
        executions: NamedDependency[Executions],
        views: NamedDependency[Views],
        execution_id: FromPath[UUID],
    ) -> ExecutionRead:
        """One that has ended already stays as it is."""
        await executions.cancel(principal.user_id, execution_id)
        return ExecutionRead.of(await views.find(principal.user_id, execution_id))

    @get("/{execution_id:uuid}/events", summary="What a script prints and does, as it comes")
    async def events(
        self,
        principal: NamedDependency[Principal],
        views: NamedDependency[Views],
        execution_id: FromPath[UUID],
        last_event_id: Annotated[str | None, HeaderParameter(name="last-event-id")] = None,
    ) -> Stream:
        """Server-sent events `status`, `stdout`, `stderr`, `llm_request` and, last, `result`; from
        the first one on, or from behind `Last-Event-ID`.
        """
        after_seq = seq_of(last_event_id)
        await views.find(principal.user_id, execution_id)
        frames = _frames(views, principal.user_id, execution_id, after_seq)
        return Stream(frames, media_type="text/event-stream", headers=STREAM_HEADERS)

    @get("/{execution_id:uuid}/artifacts/{name:str}", summary="A file that a script has saved")
    async def artifact(
        self,
        principal: NamedDependency[Principal],
        views: NamedDependency[Views],
        execution_id: FromPath[UUID],
        name: FromPath[str],
    ) -> Stream:
        """Always as a download: it is whatever the script made it."""
        pieces = await views.artifact(principal.user_id, execution_id, name)
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "x-content-type-options": "nosniff",
        }
        return Stream(pieces, media_type="application/octet-stream", headers=headers)


async def _frames(
    views: Views, user_id: UUID, execution_id: UUID, after_seq: int
) -> AsyncIterator[bytes]:
    """The log's events, what was printed since the last of them, and the result."""
    told = {"stdout": 0, "stderr": 0}
    async with paced(views.follow(user_id, execution_id)) as events:
        async for event in events:
            if event is None:
                yield KEEP_ALIVE
                continue
            if event.name in told:
                told[event.name] += len(event.data["text"])
            if event.seq > after_seq and (frame := event_frame(event)) is not None:
                yield frame
    read = ExecutionRead.of(await views.ended(user_id, execution_id))
    for stream, text in untold(read, told):
        yield text_frame(stream, text)
    yield result_frame(read)


def _cursor(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise CursorMalformed("cursor is the `next` of the page before.") from None
