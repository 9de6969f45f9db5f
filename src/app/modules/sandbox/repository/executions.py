"""Statements about executions."""

from datetime import datetime
from typing import Final, cast
from uuid import UUID

from sqlalchemy import Row, Table, Update, Uuid, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.sandbox.models.executions import ExecutionRow

TABLE: Final = cast(Table, ExecutionRow.__table__)
# By the table, and made once: through the class, SQLAlchemy takes twice as long and more.
INSERT: Final = insert(TABLE)
END: Final = (
    update(TABLE)
    # Of a foreign key, the column's own type is not known before the other table is.
    .where(TABLE.c.id == bindparam("the_id", type_=Uuid()))
    .values(
        outcome=bindparam("the_outcome"),
        request=None,
        question=None,
        is_queued=False,
        completed_at=bindparam("the_end"),
    )
)


class ExecutionRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(
        self, run_id: UUID, user_id: UUID, project: str, request: bytes, now: datetime
    ) -> None:
        await self._session.execute(
            INSERT,
            {
                "id": run_id,
                "user_id": user_id,
                "project": project,
                "is_queued": False,
                "request": request,
                "created_at": now,
                "updated_at": now,
            },
        )

    async def owned(self, user_id: UUID, run_id: UUID) -> ExecutionRow | None:
        found = select(ExecutionRow).where(
            ExecutionRow.id == run_id, ExecutionRow.user_id == user_id
        )
        return (await self._session.scalars(found)).one_or_none()

    async def find(self, run_id: UUID) -> ExecutionRow | None:
        return await self._session.get(ExecutionRow, run_id)

    async def page(
        self, user_id: UUID, project: str | None, before: UUID | None, limit: int
    ) -> list[Row[tuple[UUID, str, bool, datetime, datetime | None]]]:
        """Newest first: id, project, is_queued, created_at and completed_at of each."""
        columns = (
            ExecutionRow.id,
            ExecutionRow.project,
            ExecutionRow.is_queued,
            ExecutionRow.created_at,
            ExecutionRow.completed_at,
        )
        found = select(*columns).where(ExecutionRow.user_id == user_id)
        if project is not None:
            found = found.where(ExecutionRow.project == project)
        if before is not None:
            found = found.where(ExecutionRow.id < before)
        return list(
            await self._session.execute(found.order_by(ExecutionRow.id.desc()).limit(limit))
        )

    async def queue(self, run_id: UUID, *, is_queued: bool) -> None:
        await self._session.execute(_of(run_id).values(is_queued=is_queued))

    async def ask(self, run_id: UUID, question: bytes | None) -> None:
        await self._session.execute(_of(run_id).values(question=question))

    async def end(self, run_id: UUID, outcome: bytes, now: datetime) -> None:
        """Keep what it left, and forget what it was given."""
        told = {"the_id": run_id, "the_outcome": outcome, "the_end": now}
        await self._session.execute(END, told)

    async def keep(self, run_id: UUID, outcome: bytes) -> None:
        """Keep what it has said before it was stopped, if nothing else was kept of it."""
        unkept = _of(run_id).where(TABLE.c.outcome.is_(None))
        await self._session.execute(unkept.values(outcome=outcome, request=None, question=None))


def _of(run_id: UUID) -> Update:
    return update(TABLE).where(TABLE.c.id == run_id)
