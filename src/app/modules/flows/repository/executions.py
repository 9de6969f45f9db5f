"""Statements about executions and their nodes."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import Table, Uuid, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Prepared, uuid7
from app.modules.flows.domain.executions import NodeState, NodeStatus
from app.modules.flows.models.executions import ExecutionRow, NodeRow

# By the tables, and made once: through the classes, SQLAlchemy takes twice as long and more.
EXECUTIONS: Final = cast(Table, ExecutionRow.__table__)
NODES: Final = cast(Table, NodeRow.__table__)
INSERT: Final = Prepared(insert(EXECUTIONS))
END: Final = Prepared(
    update(EXECUTIONS)
    # Of a foreign key, the column's own type is not known before the other table is.
    .where(EXECUTIONS.c.id == bindparam("the_id", type_=Uuid()))
    .values(
        output=bindparam("the_output"),
        duration_ms=bindparam("the_duration"),
        updated_at=bindparam("the_time"),
    )
)
_CHANGING: Final = (
    "status",
    "attempts",
    "is_cached",
    "output",
    "error",
    "duration_ms",
    "ended_at",
    "updated_at",
)
_UPSERTS: Final = {
    name: Prepared(
        statement.on_conflict_do_update(
            index_elements=[NODES.c.execution_id, NODES.c.node_id],
            set_={column: statement.excluded[column] for column in _CHANGING},
        )
    )
    for name, statement in (
        ("sqlite", sqlite.insert(NODES)),
        ("postgresql", postgresql.insert(NODES)),
    )
}


class ExecutionRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, values: Mapping[str, Any]) -> None:
        await INSERT.rows(self._session, values)

    async def owned(self, user_id: UUID, run_id: UUID) -> ExecutionRow | None:
        mine = select(ExecutionRow).where(
            ExecutionRow.id == run_id, ExecutionRow.user_id == user_id
        )
        return (await self._session.scalars(mine)).one_or_none()

    async def find(self, ids: Collection[UUID]) -> dict[UUID, ExecutionRow]:
        rows = await self._session.scalars(select(ExecutionRow).where(ExecutionRow.id.in_(ids)))
        return {row.id: row for row in rows}

    async def keep(self, execution_id: UUID, states: Sequence[NodeState]) -> None:
        """Write how far nodes are, each for the first time or over what it was."""
        dialect = self._session.get_bind().dialect.name
        rows = [
            {
                "id": uuid7(),
                "execution_id": execution_id,
                "node_id": state.path,
                "status": state.status,
                "attempts": state.attempts,
                "is_cached": state.is_cached,
                "output": state.output,
                "error": state.error,
                "duration_ms": state.duration_ms,
                "ended_at": None if state.status == "running" else state.at,
                "created_at": state.begun_at or state.at,
                "updated_at": state.at,
            }
            for state in states
        ]
        await _UPSERTS[dialect].write(self._session, rows)

    async def end(
        self, execution_id: UUID, output: bytes | None, duration_ms: int, now: datetime
    ) -> None:
        """Keep what it gave, and how long it took."""
        told = {"the_id": execution_id, "the_output": output, "the_duration": duration_ms}
        await END.rows(self._session, told | {"the_time": now})

    async def nodes(self, execution_id: UUID) -> list[NodeRow]:
        """In the order of their beginning."""
        found = select(NodeRow).where(NodeRow.execution_id == execution_id).order_by(NodeRow.id)
        return list(await self._session.scalars(found))

    async def seconds(self, user_id: UUID) -> float:
        """How long a user's executions took, added up."""
        took = select(func.coalesce(func.sum(EXECUTIONS.c.duration_ms), 0))
        total = await self._session.scalar(took.where(EXECUTIONS.c.user_id == user_id))
        return int(total or 0) / 1000


def state_of(row: NodeRow) -> NodeState:
    return NodeState(
        path=row.node_id,
        status=cast(NodeStatus, row.status),
        at=row.updated_at,
        attempts=row.attempts,
        is_cached=row.is_cached,
        output=row.output,
        error=row.error,
        duration_ms=row.duration_ms,
        begun_at=row.created_at,
        id=row.id,
    )
