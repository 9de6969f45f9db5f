"""Statements about upload sessions, and about parts that are sent by link."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.storage.domain import bodies
from app.modules.storage.domain.bodies import Part
from app.modules.storage.domain.uploads import OPEN
from app.modules.storage.models import PartRow, UploadRow


class UploadRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, upload: UploadRow) -> None:
        self._session.add(upload)
        await self._session.flush()

    async def owned(self, upload_id: UUID, user_id: UUID) -> UploadRow | None:
        """Who holds the user's account locked, is the only one that changes it."""
        found = select(UploadRow).where(UploadRow.id == upload_id, UploadRow.user_id == user_id)
        return (await self._session.scalars(found)).one_or_none()

    async def open_count(self, user_id: UUID) -> int:
        found = select(func.count()).where(UploadRow.user_id == user_id, UploadRow.state == OPEN)
        return int((await self._session.scalars(found)).one())

    async def due(self, now: datetime, limit: int) -> list[tuple[UUID, UUID]]:
        """User and id of open sessions whose time is over."""
        found = select(UploadRow.user_id, UploadRow.id).where(
            UploadRow.state == OPEN, UploadRow.expires_at <= now
        )
        rows = await self._session.execute(found.order_by(UploadRow.expires_at).limit(limit))
        return [(user_id, upload_id) for user_id, upload_id in rows]

    async def forget(self, before: datetime) -> None:
        """Delete sessions that have ended, and whose time was over long ago."""
        await self._session.execute(
            delete(UploadRow).where(UploadRow.state != OPEN, UploadRow.expires_at < before)
        )

    async def links(self, body_id: UUID) -> list[Part]:
        """Parts that somebody may be sending by link: open, with their digest known before."""
        found = select(PartRow).where(
            PartRow.body_id == body_id, PartRow.state == bodies.OPEN, PartRow.sha256 != ""
        )
        rows = await self._session.scalars(found.order_by(PartRow.id))
        return [Part(row.id, row.number, row.size_bytes, row.sha256) for row in rows]

    async def renew(self, part_id: UUID, now: datetime) -> None:
        """Say that a part may be coming by link from now on, as if its row were new."""
        renewed = update(PartRow).where(PartRow.id == part_id)
        await self._session.execute(renewed.values(created_at=now, updated_at=now))
