"""``/api/v1/backup``."""

from typing import Annotated, Final
from uuid import UUID

from litestar import Controller, Response, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter
from litestar.response.base import ASGIResponse
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from app.kernel.errors import Invalid
from app.modules.auth.api import Principal
from app.modules.storage.controllers.reading import AnyRequest, chunks, expected
from app.modules.storage.controllers.sending import Download, send
from app.modules.storage.domain.backups import (
    LARGEST,
    Backup,
    BackupWrite,
    http_date,
    is_unmodified,
)
from app.modules.storage.domain.conditions import quoted
from app.modules.storage.domain.digests import content_digest
from app.modules.storage.schemas.backups import BackupRead
from app.modules.storage.service.backups import Backups

HISTORY_LIMIT: Final = 500

# Optional for the framework, which would miss them before it asks who is there.
Version = Annotated[int | None, HeaderParameter(name="x-backup-version", ge=0, le=LARGEST)]
Timestamp = Annotated[int | None, HeaderParameter(name="x-backup-timestamp", ge=0, le=LARGEST)]
Checksum = Annotated[str | None, HeaderParameter(name="x-backup-checksum")]
Chunks = Annotated[int, HeaderParameter(name="x-backup-chunks", ge=1, le=2**31 - 1)]


class BackupHeaderMissing(Invalid):
    """What a backup is must be said in its headers."""

    title = "Backup header missing"


class BackupController(Controller):
    path = "/api/v1/backup"
    tags = ("storage",)

    @put(summary="Keep a backup of a higher version")
    async def put(  # noqa: PLR0913 - each is one part of the request
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        backups: NamedDependency[Backups],
        *,
        version: Version = None,
        timestamp: Timestamp = None,
        checksum: Checksum = None,
        chunk_count: Chunks = 1,
    ) -> Response[BackupRead]:
        """The body is opaque bytes. The same backup sent again is 200, any other version that is
        not above the highest ever 409.
        """
        if version is None or timestamp is None or checksum is None:
            raise BackupHeaderMissing(
                "A backup comes with X-Backup-Version, X-Backup-Timestamp and X-Backup-Checksum."
            )
        write = BackupWrite(version, timestamp, chunk_count)
        announced = expected(request, checksum)
        backup = await backups.put(principal, write, announced, chunks(request))
        return told(backup)

    @get(summary="The backup with the highest version")
    async def latest(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        backups: NamedDependency[Backups],
    ) -> ASGIResponse:
        """Raw bytes, or a part of them by `Range`; 304 by `If-None-Match`, or by
        `If-Modified-Since`, which cannot tell two backups of one second apart.
        """
        return _sent(request, backups, await backups.latest(principal.user_id))

    @get("/history", summary="Your backups without their bytes, highest version first")
    async def history(
        self,
        principal: NamedDependency[Principal],
        backups: NamedDependency[Backups],
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=HISTORY_LIMIT)] = HISTORY_LIMIT,
    ) -> list[BackupRead]:
        """`before` is a version: only those below it."""
        found = await backups.history(principal.user_id, before, limit)
        return [BackupRead.of(backup) for backup in found]

    @get("/{backup_id:uuid}", summary="A backup")
    async def read(
        self,
        request: AnyRequest,
        principal: NamedDependency[Principal],
        backups: NamedDependency[Backups],
        backup_id: FromPath[UUID],
    ) -> ASGIResponse:
        return _sent(request, backups, await backups.find(principal.user_id, backup_id))

    @delete("/{backup_id:uuid}", summary="Delete a backup")
    async def remove(
        self,
        principal: NamedDependency[Principal],
        backups: NamedDependency[Backups],
        backup_id: FromPath[UUID],
    ) -> None:
        """Its version stays taken."""
        await backups.remove(principal.user_id, backup_id)


def told(backup: Backup) -> Response[BackupRead]:
    """What whoever has sent a backup is answered."""
    status = HTTP_200_OK if backup.is_again else HTTP_201_CREATED
    headers = {"etag": quoted(backup.etag)}
    return Response(BackupRead.of(backup), status_code=status, headers=headers)


def _sent(request: AnyRequest, backups: Backups, backup: Backup) -> ASGIResponse:
    about = {
        "last-modified": http_date(backup.created_at),
        "x-backup-version": str(backup.version),
        "x-backup-timestamp": str(backup.timestamp_ms),
        "x-backup-checksum": backup.sha256,
        "x-backup-chunks": str(backup.chunk_count),
    }
    download = Download(
        etag=quoted(backup.etag),
        size_bytes=backup.size_bytes,
        headers=about,
        read=lambda start, end: backups.read(backup, start, end),
        whole={"content-digest": content_digest(backup.sha256)},
    )
    # RFC 9110 section 13.2.2: a date counts only where no ETag was sent.
    since = None
    if "if-none-match" not in request.headers:
        since = request.headers.get("if-modified-since")
    unmodified = is_unmodified(since, backup.created_at)
    return send(request, download, is_unchanged=unmodified)
