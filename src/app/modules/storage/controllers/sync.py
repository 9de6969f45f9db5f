"""``/api/v1/storage``: changes, batches, keys and usage."""

from typing import Annotated, Final

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.status_codes import HTTP_200_OK

from app.kernel import problems
from app.kernel.errors import Conflict
from app.modules.auth.api import Principal
from app.modules.storage.controllers.reading import AnyRequest, read_json
from app.modules.storage.domain.changes import parse_kinds
from app.modules.storage.domain.records import name
from app.modules.storage.schemas.sync import (
    Batch,
    BatchResult,
    ChangeList,
    KeyList,
    OperationError,
    OperationResult,
    UsageRead,
)
from app.modules.storage.service.batches import Batches, Failed
from app.modules.storage.service.changes import Changes
from app.modules.storage.service.keys import Keys
from app.modules.storage.service.records import Records

CHANGES_LIMIT: Final = 500
BATCH_LIMIT_BYTES: Final = 8 * 2**20


class BatchRefused(Conflict):
    """Nothing was done, as some of it cannot be; ``errors`` says what and why."""

    title = "Batch refused"


class SyncController(Controller):
    path = "/api/v1/storage"
    tags = ("storage",)

    @get("/changes", summary="What has changed since a cursor")
    async def changes(
        self,
        principal: NamedDependency[Principal],
        changes: NamedDependency[Changes],
        cursor: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=CHANGES_LIMIT)] = 100,
        kinds: FromQuery[str] = "record",
    ) -> ChangeList:
        """In the order of their commits, each record once, deleted ones too. Without a cursor all
        there is; 410 when deletions since the cursor are forgotten: begin without one.
        """
        wanted = parse_kinds(kinds)
        return ChangeList.of(await changes.page(principal.user_id, cursor, limit, wanted))

    @post("/batch", status_code=HTTP_200_OK, summary="Change several records, or none")
    async def batch(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        batches: NamedDependency[Batches],
    ) -> BatchResult:
        """`{operations: [{op: "put" | "delete" | "check", id, ...}]}`; 409 with every reason."""
        given = await read_json(request, Batch, BATCH_LIMIT_BYTES)
        outcome = await batches.apply(principal, [one.operation for one in given.operations])
        if outcome.failed:
            errors = [_error(one) for one in outcome.failed]
            raise BatchRefused("Nothing was done; mend what `errors` names.", errors=errors)
        return BatchResult([OperationResult.of(one) for one in outcome.done])

    @get("/keys", summary="Your keys, and how much each seals")
    async def keys(
        self, principal: NamedDependency[Principal], keys: NamedDependency[Keys]
    ) -> KeyList:
        return KeyList.of(await keys.all(principal.user_id))

    @delete("/keys/{key_id:str}", summary="Let a key seal nothing any more")
    async def retire(
        self,
        principal: NamedDependency[Principal],
        keys: NamedDependency[Keys],
        key_id: FromPath[str],
    ) -> None:
        """Refused while live records need it."""
        await keys.retire(principal.user_id, name(key_id))

    @get("/usage", summary="How much you have, and may have")
    async def usage(
        self,
        principal: NamedDependency[Principal],
        keys: NamedDependency[Keys],
        records: NamedDependency[Records],
    ) -> UsageRead:
        return UsageRead.of(await keys.standing(principal), records.most_bytes)


def _error(failed: Failed) -> OperationError:
    problem = problems.of(failed.error)
    return OperationError(
        failed.index,
        failed.record_id,
        problem.status,
        f"urn:problem:{problem.code}",
        problem.detail,
        **{name: value for name, value in problem.extra.items() if name == "etag"},
    )
