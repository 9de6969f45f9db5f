"""Statements about which projects are up."""

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.sandbox.models.pools import PoolRow


class Wanted(msgspec.Struct, frozen=True):
    """What is written down of one project."""

    replicas: int = 0
    version: int = 0


class PoolRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def wanted(self) -> dict[str, Wanted]:
        """By project."""
        rows = await self._session.scalars(select(PoolRow))
        return {row.project: Wanted(row.replicas, row.version) for row in rows}

    async def want(self, project: str, replicas: int) -> Wanted:
        """Write down how many workers, and that this is another version."""
        found = select(PoolRow).where(PoolRow.project == project).with_for_update()
        row = (await self._session.scalars(found)).one_or_none()
        if row is None:
            row = PoolRow(project=project, replicas=replicas, version=0)
            self._session.add(row)
        row.replicas = replicas
        row.version += 1
        return Wanted(row.replicas, row.version)
