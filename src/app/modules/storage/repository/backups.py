"""Statements about backups."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.storage.models import BackupRow


class BackupRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, backup: BackupRow) -> None:
        self._session.add(backup)
        await self._session.flush()

    async def owned(self, backup_id: UUID, user_id: UUID) -> BackupRow | None:
        found = select(BackupRow).where(BackupRow.id == backup_id, BackupRow.user_id == user_id)
        return (await self._session.scalars(found)).one_or_none()

    async def of_version(self, user_id: UUID, version: int) -> BackupRow | None:
        found = select(BackupRow).where(BackupRow.user_id == user_id, BackupRow.version == version)
        return (await self._session.scalars(found)).one_or_none()

    async def latest(
        self, user_id: UUID, before_version: int | None, limit: int
    ) -> Sequence[BackupRow]:
        """The highest versions first, those below ``before_version`` only."""
        found = select(BackupRow).where(BackupRow.user_id == user_id)
        if before_version is not None:
            found = found.where(BackupRow.version < before_version)
        ordered = found.order_by(BackupRow.version.desc()).limit(limit)
        return (await self._session.scalars(ordered)).all()

    async def remove(self, backup: BackupRow) -> None:
        await self._session.delete(backup)
        await self._session.flush()
