"""``/api/v1/storage/uploads``."""

from typing import cast
from uuid import UUID

from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.modules.auth.api import Principal
from app.modules.storage.controllers import backups
from app.modules.storage.controllers.reading import AnyRequest, chunks, expected, read_json
from app.modules.storage.domain.backups import Backup
from app.modules.storage.domain.conditions import quoted
from app.modules.storage.domain.digests import parse_hex
from app.modules.storage.schemas.backups import BackupRead
from app.modules.storage.schemas.records import RecordRead
from app.modules.storage.schemas.uploads import (
    LinkCreate,
    LinkRead,
    PartRead,
    UploadComplete,
    UploadCreate,
    UploadRead,
)
from app.modules.storage.service.uploads import Result, Uploads


class UploadController(Controller):
    path = "/api/v1/storage/uploads"
    tags = ("storage",)

    @post(summary="Begin a large body")
    async def create(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        uploads: NamedDependency[Uploads],
    ) -> UploadRead:
        """Room for all of it is reserved, for as long as the session lasts."""
        wanted = await read_json(request, cast("type[UploadCreate]", UploadCreate))
        return UploadRead.of(await uploads.create(principal, wanted.order))

    @get("/{upload_id:uuid}", summary="Which parts are there")
    async def read(
        self,
        principal: NamedDependency[Principal],
        uploads: NamedDependency[Uploads],
        upload_id: FromPath[UUID],
    ) -> UploadRead:
        return UploadRead.of(await uploads.get(principal.user_id, upload_id))

    @put("/{upload_id:uuid}/parts/{number:int}", summary="Send a part")
    async def put_part(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        uploads: NamedDependency[Uploads],
        upload_id: FromPath[UUID],
        number: FromPath[int],
    ) -> PartRead:
        """Parts are counted from 1, and come in any order; one that is sent again replaces."""
        announced, user_id = expected(request), principal.user_id
        sha256 = await uploads.put_part(user_id, upload_id, number, announced, chunks(request))
        return PartRead(number, announced.size_bytes, sha256)

    @post(
        "/{upload_id:uuid}/parts/{number:int}",
        status_code=HTTP_200_OK,
        summary="Send a part to the bucket yourself",
    )
    async def link(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        uploads: NamedDependency[Uploads],
        upload_id: FromPath[UUID],
        number: FromPath[int],
    ) -> LinkRead:
        """Answers with a URL that takes these very bytes, for a quarter of an hour."""
        sha256 = parse_hex((await read_json(request, LinkCreate)).checksum)
        return LinkRead.of(await uploads.link(principal.user_id, upload_id, number, sha256))

    @post(
        "/{upload_id:uuid}/complete",
        status_code=HTTP_200_OK,
        summary="Show a large body as what it was sent for",
    )
    async def complete(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        uploads: NamedDependency[Uploads],
        upload_id: FromPath[UUID],
    ) -> Response[RecordRead] | Response[BackupRead]:
        """Answers as `PUT` of the record or backup does; again, whenever it is asked again. What
        is refused, for parts or a precondition, leaves the upload open.
        """
        said = (await _said(request)).completion
        return _told(await uploads.complete(principal, upload_id, said))

    @delete("/{upload_id:uuid}", summary="Give up a large body")
    async def abort(
        self,
        principal: NamedDependency[Principal],
        uploads: NamedDependency[Uploads],
        upload_id: FromPath[UUID],
    ) -> None:
        await uploads.abort(principal.user_id, upload_id)


async def _said(request: AnyRequest) -> UploadComplete:
    """Nothing needs to be said: there may be no body."""
    is_empty = request.headers.get("content-length", "0") == "0"
    if is_empty and "transfer-encoding" not in request.headers:
        return UploadComplete()
    return await read_json(request, UploadComplete)


def _told(result: Result) -> Response[RecordRead] | Response[BackupRead]:
    if isinstance(result, Backup):
        return backups.told(result)
    is_made = result.is_new and not result.is_again
    return Response(
        RecordRead.of_written(result),
        status_code=HTTP_201_CREATED if is_made else HTTP_200_OK,
        headers={"etag": quoted(result.etag), "x-seq": str(result.seq)},
    )
