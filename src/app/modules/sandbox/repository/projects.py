"""Statements about projects that were made over the API."""

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.ports import utc_now
from app.modules.sandbox.models.projects import ProjectRow


class ProjectRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list(self, limit: int) -> list[ProjectRow]:
        """The first ``limit``, by name."""
        found = select(ProjectRow).order_by(ProjectRow.name).limit(limit)
        return list(await self._session.scalars(found))

    async def find(self, name: str) -> ProjectRow | None:
        found = select(ProjectRow).where(ProjectRow.name == name)
        return (await self._session.scalars(found)).one_or_none()

    async def count_others(self, name: str) -> int:
        """How many there are, beside the one of this name."""
        others = select(func.count(ProjectRow.id)).where(ProjectRow.name != name)
        return await self._session.scalar(others) or 0

    async def put(self, row: ProjectRow) -> None:
        """Add a project, or replace the one of its name."""
        dialect = self._session.get_bind().dialect.name
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        told = {"document": row.document, "secrets_sealed": row.secrets_sealed}
        statement = insert(ProjectRow).values({"name": row.name, **told})
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=[ProjectRow.name], set_={**told, "updated_at": utc_now()}
            )
        )

    async def remove(self, name: str) -> bool:
        """Drop a project; return whether it was there."""
        gone = delete(ProjectRow).where(ProjectRow.name == name).returning(ProjectRow.id)
        return bool((await self._session.scalars(gone)).all())
