"""The parts of an upload: received here, or put into the bucket by their sender."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database, uuid7
from app.kernel.ports import BlobLink, BlobLinks, Clock
from app.modules.storage.domain import bodies as states
from app.modules.storage.domain.bodies import Part, blob_key
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.uploads import (
    LINKS_LIMIT,
    OPEN,
    LinksMissing,
    LinksTooMany,
    Upload,
    arrivable,
    gone,
)
from app.modules.storage.models import PartRow
from app.modules.storage.repository.bodies import BodyRepository
from app.modules.storage.repository.uploads import UploadRepository
from app.modules.storage.service.bodies import Bodies

# Looks at the bucket, and parts that one transaction takes over from it.
LOOKS_AT_ONCE: Final = 16
PARTS_A_COMMIT: Final = 500


class Parts:
    """Of an open upload. ``links`` is ``None`` where bytes cannot be sent to a bucket directly."""

    def __init__(self, db: Database, bodies: Bodies, clock: Clock, links: BlobLinks | None) -> None:
        self._db = db
        self._bodies = bodies
        self._clock = clock
        self._links = links
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)

    async def put(
        self, upload: Upload, number: int, expected: Expected, chunks: AsyncIterator[bytes]
    ) -> str:
        """Receive one part, which replaces what is there of this number; its SHA-256."""
        upload.layout.require_size(number, expected.size_bytes)
        async with self._db.read() as session:
            body = await BodyRepository(session).find(upload.id)
        if body is None:
            raise gone()
        return await self._bodies.take_part(body, number, expected, chunks)

    async def link(self, upload: Upload, number: int, sha256: str) -> BlobLink:
        """Let the sender put one part into the bucket: these bytes, and no others."""
        size = upload.layout.size_of(number)
        if self._links is None:
            raise LinksMissing("There is no bucket here; send the part to this path, by PUT.")
        async with self._db.begin(is_durable=True) as session:
            if not await BodyRepository(session).touch(upload.id, self._clock()):
                raise gone()
            part_id = await self._linked(session, upload, Part(uuid7(), number, size, sha256))
        key = blob_key(upload.user_id, part_id)
        return await self._links.link(key, size_bytes=size, sha256=sha256)

    async def arrived(self, upload: Upload) -> list[Part]:
        """The parts that are there. What came by link is looked at before it is believed."""
        async with self._db.read() as session:
            kept = await BodyRepository(session).parts(upload.id)
            links = await UploadRepository(session).links(upload.id)
        pending = arrivable(links, kept) if upload.state == OPEN else []
        for start in range(0, len(pending), PARTS_A_COMMIT):
            some = pending[start : start + PARTS_A_COMMIT]
            looks = await asyncio.gather(*(self._is_there(upload.user_id, part) for part in some))
            there = [part for part, is_there in zip(some, looks, strict=True) if is_there]
            kept = await self._keep(upload.id, there) if there else kept
        return kept

    async def _is_there(self, user_id: UUID, part: Part) -> bool:
        async with self._looks:
            return await self._bodies.is_there(user_id, part)

    async def _keep(self, upload_id: UUID, parts: Sequence[Part]) -> list[Part]:
        async with self._db.begin(is_durable=True) as session:
            repository = BodyRepository(session)
            if await repository.touch(upload_id, self._clock()):
                for part in parts:
                    await repository.keep_part(part.id, part.sha256)
            return await repository.parts(upload_id)

    async def _linked(self, session: AsyncSession, upload: Upload, part: Part) -> UUID:
        """The row of a part that is sent by link: of the same bytes there is one."""
        repository = UploadRepository(session)
        links = [one for one in await repository.links(upload.id) if one.number == part.number]
        for link in links:
            if link.sha256 == part.sha256:
                await repository.renew(link.id, self._clock())
                return link.id
        if len(links) >= LINKS_LIMIT:
            raise LinksTooMany(f"A part has {LINKS_LIMIT} links at most; use one of them.")
        row = PartRow(
            id=part.id,
            user_id=upload.user_id,
            body_id=upload.id,
            number=part.number,
            state=states.OPEN,
            size_bytes=part.size_bytes,
            sha256=part.sha256,
        )
        await BodyRepository(session).add_part(row)
        return part.id
