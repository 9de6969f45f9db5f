"""``/api/v1/storage/records``."""

from collections.abc import AsyncIterator
from email.utils import format_datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from litestar import Controller, HttpMethod, Response, delete, get, post, put, route
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response.base import ASGIResponse
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_204_NO_CONTENT

from app.kernel.db import Page, uuid7
from app.modules.auth.api import Principal
from app.modules.storage.controllers.reading import (
    AnyRequest,
    DocumentTooLarge,
    chunks,
    expected,
    read_json,
)
from app.modules.storage.controllers.sending import Download, send
from app.modules.storage.domain.conditions import Condition, condition, quoted
from app.modules.storage.domain.digests import Expected, content_digest, parse_hex
from app.modules.storage.domain.records import MOST_REV, Written, name, pick
from app.modules.storage.schemas.records import (
    RecordBrief,
    RecordCreate,
    RecordPut,
    RecordRead,
    RecordRestore,
    RecordWhole,
    VersionList,
)
from app.modules.storage.service.records import (
    Found,
    Incoming,
    RecordDeletion,
    Records,
    RecordWrite,
)

PAGE_LIMIT: Final = 500
LAST_PAGE: Final = 1_000_000
WHOLE_LIMIT_BYTES: Final = 2**20
JSON: Final = "application/json"

Limit = Annotated[int, QueryParameter(ge=1, le=PAGE_LIMIT)]
Rev = Annotated[int | None, QueryParameter(ge=1, le=MOST_REV)]


class RecordController(Controller):
    path = "/api/v1/storage/records"
    tags = ("storage",)

    @post(summary="Create a record from JSON")
    async def create(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        records: NamedDependency[Records],
    ) -> Response[RecordRead]:
        """`{table, blob, checksum, key_id?, id?}` with base64; `PUT` takes raw bytes."""
        given = await read_json(request, RecordCreate)
        record_id = given.id or uuid7()
        write = RecordWrite(record_id, Condition(is_new=True), given.table, given.key_id)
        incoming = _incoming(given.blob, given.checksum)
        return _answer(await records.put(principal, write, incoming))

    @get(summary="Your records, by their ids")
    async def list(
        self,
        principal: NamedDependency[Principal],
        records: NamedDependency[Records],
        table: FromQuery[str | None] = None,
        cursor: FromQuery[UUID | None] = None,
        limit: Limit = 50,
        page: Annotated[int | None, QueryParameter(ge=1, le=LAST_PAGE)] = None,
    ) -> Page[RecordRead] | list[RecordBrief]:
        """`next` of one page is the cursor of the next. With `page`, by number, a plain list."""
        wanted = None if table is None else name(table)
        if page is not None:
            briefs = await records.numbered_page(principal.user_id, wanted, page, limit)
            return [RecordBrief.of(one) for one in briefs]
        found = await records.page(principal.user_id, wanted, cursor, limit)
        following = str(found[-1].record_id) if len(found) == limit else None
        return Page([RecordRead.of(one) for one in found], following)

    @route(
        "/{record_id:uuid}",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        summary="The bytes of a record",
    )
    async def read(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        records: NamedDependency[Records],
        record_id: FromPath[UUID],
        version: FromQuery[str | None] = None,
        rev: Rev = None,
    ) -> ASGIResponse:
        """All of them or one `Range`; with `Accept: application/json` a document with base64. With
        `version` (an ETag without quotes) or `rev` those of an earlier revision.
        """
        found = await records.get(principal.user_id, record_id, pick(version, rev))
        if request.headers.get("accept", "").split(";")[0].strip().lower() == JSON:
            return await _document(records, found)
        return send(request, _download(records, found))

    @put("/{record_id:uuid}", summary="Create or replace a record")
    async def put(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        records: NamedDependency[Records],
        record_id: FromPath[UUID],
    ) -> Response[RecordRead]:
        """Raw bytes, or JSON `{blob, checksum, table?, key_id?}`. `If-None-Match: *` creates,
        `If-Match` replaces that revision; one of them must be there. The same request again is
        answered as before and changes nothing.
        """
        write, incoming = await _order(request, record_id)
        return _answer(await records.put(principal, write, incoming))

    @delete("/{record_id:uuid}", summary="Delete a record")
    async def remove(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        records: NamedDependency[Records],
        record_id: FromPath[UUID],
        *,
        purge: FromQuery[bool] = False,
    ) -> Response[None]:
        """Leaves a tombstone and, without `purge`, earlier revisions to restore."""
        wanted = condition(request.headers.get("if-match"), None)
        deletion = RecordDeletion(record_id, wanted, is_final=purge)
        written = await records.delete(principal, deletion)
        return Response(None, status_code=HTTP_204_NO_CONTENT, headers=_headers(written))

    @get("/{record_id:uuid}/versions", summary="The revisions of a record, newest first")
    async def versions(
        self,
        principal: NamedDependency[Principal],
        records: NamedDependency[Records],
        record_id: FromPath[UUID],
    ) -> VersionList:
        return VersionList.of(await records.versions(principal.user_id, record_id))

    @post(
        "/{record_id:uuid}/restore",
        status_code=HTTP_200_OK,
        summary="Make an earlier revision the newest one",
    )
    async def restore(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        records: NamedDependency[Records],
        record_id: FromPath[UUID],
    ) -> Response[RecordRead]:
        """`{rev}` with preconditions as for `PUT`; of a deleted record, `If-None-Match: *`."""
        write = RecordWrite(record_id, _condition(request))
        given = await read_json(request, RecordRestore)
        written = await records.restore(principal, write, given.rev)
        return Response(RecordRead.of_written(written), headers=_headers(written))


async def _order(request: AnyRequest, record_id: UUID) -> tuple[RecordWrite, Incoming]:
    """What is to be written, from headers and a raw body or from JSON."""
    wanted = _condition(request)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() == JSON:
        given = await read_json(request, RecordPut)
        write = RecordWrite(record_id, wanted, given.table, given.key_id)
        return write, _incoming(given.blob, given.checksum)
    table, key_id = request.headers.get("x-table"), request.headers.get("x-key-id")
    write = RecordWrite(
        record_id,
        wanted,
        None if table is None else name(table),
        None if key_id is None else name(key_id),
    )
    return write, Incoming(expected(request), chunks(request))


def _condition(request: AnyRequest) -> Condition:
    return condition(request.headers.get("if-match"), request.headers.get("if-none-match"))


def _incoming(blob: bytes, checksum: str) -> Incoming:
    return Incoming(Expected(len(blob), (parse_hex(checksum),)), _once(blob))


async def _once(blob: bytes) -> AsyncIterator[bytes]:
    yield blob


def _answer(written: Written) -> Response[RecordRead]:
    is_made = written.is_new and not written.is_again
    return Response(
        RecordRead.of_written(written),
        status_code=HTTP_201_CREATED if is_made else HTTP_200_OK,
        headers=_headers(written),
    )


def _headers(written: Written) -> dict[str, str]:
    return {"etag": quoted(written.etag), "x-seq": str(written.seq)}


def _download(records: Records, found: Found) -> Download:
    revision = found.revision
    headers = {
        "x-seq": str(revision.seq),
        "x-table": revision.table,
        "x-key-id": revision.key_id,
        "x-checksum": revision.sha256,
        "last-modified": format_datetime(revision.updated_at, usegmt=True),
        "vary": "accept",
        # Whatever the client has sealed in it, no browser is to take it for a page.
        "x-content-type-options": "nosniff",
    }
    return Download(
        quoted(revision.etag),
        revision.size_bytes,
        headers,
        lambda start, end: records.read(found, start, end),
        whole={"content-digest": content_digest(revision.sha256)},
        inline=found.inline,
    )


async def _document(records: Records, found: Found) -> ASGIResponse:
    """The JSON form of a small record."""
    revision = found.revision
    if revision.size_bytes > WHOLE_LIMIT_BYTES:
        raise DocumentTooLarge(f"As JSON there are {WHOLE_LIMIT_BYTES} bytes at most.")
    blob = found.inline
    if blob is None:
        blob = b"".join([one async for one in records.read(found, 0, revision.size_bytes)])
    read = RecordRead.of(revision)
    whole = RecordWhole(**msgspec.structs.asdict(read), blob=blob)
    return ASGIResponse(
        body=msgspec.json.encode(whole),
        headers={"etag": read.etag, "x-seq": str(read.seq)},
        media_type=JSON,
    )
