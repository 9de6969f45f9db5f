"""Statements about agents. Every one that a user asks for names whose they are."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.flows.domain.agents import State
from app.modules.flows.models.agents import AgentRow


class AgentRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, row: AgentRow) -> bool:
        """Write a new agent; ``False`` if the user has one of that id."""
        dialect = self._session.get_bind().dialect.name
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        columns = AgentRow.__table__.columns
        values = {c.key: getattr(row, c.key) for c in columns}
        statement = (
            insert(AgentRow)
            .values(values)
            .on_conflict_do_nothing(index_elements=[AgentRow.user_id, AgentRow.agent_id])
        )
        return bool((await self._session.scalars(statement.returning(AgentRow.id))).all())

    async def find(self, user_id: UUID, agent_ids: Collection[str]) -> list[AgentRow]:
        mine = select(AgentRow).where(AgentRow.user_id == user_id, AgentRow.agent_id.in_(agent_ids))
        return list(await self._session.scalars(mine))

    async def page(self, user_id: UUID, *, is_active: bool | None, limit: int) -> list[AgentRow]:
        """A user's agents, by id."""
        mine = select(AgentRow).where(AgentRow.user_id == user_id)
        if is_active is not None:
            mine = mine.where(AgentRow.is_active == is_active)
        return list(await self._session.scalars(mine.order_by(AgentRow.agent_id).limit(limit)))

    async def tally(self, user_id: UUID) -> tuple[int, int]:
        """How many agents a user has, and how many of them are active."""
        active = func.count(case((AgentRow.is_active, 1)))
        mine = select(func.count(AgentRow.id), active).where(AgentRow.user_id == user_id)
        total, of_them = (await self._session.execute(mine)).one()
        return total, of_them

    async def remove(self, user_id: UUID, agent_id: str) -> bool:
        """Drop an agent; ``False`` if the user has none of that id."""
        gone = delete(AgentRow).where(AgentRow.user_id == user_id, AgentRow.agent_id == agent_id)
        return bool((await self._session.scalars(gone.returning(AgentRow.id))).all())

    async def has_due(self, now: datetime) -> bool:
        """Whether an agent's health is to be looked at."""
        due = select(AgentRow.id).where(AgentRow.look_at <= now).limit(1)
        return (await self._session.scalars(due)).first() is not None

    async def claim(self, now: datetime, until: datetime, limit: int) -> list[AgentRow]:
        """Take the agents that are due for the longest: nobody else looks at them before
        ``until``.
        """
        due = select(AgentRow.id).where(AgentRow.look_at <= now).order_by(AgentRow.look_at)
        some = due.limit(limit).with_for_update(skip_locked=True)
        mine = update(AgentRow).where(AgentRow.id.in_(some), AgentRow.look_at <= now)
        mine = mine.values(look_at=until, updated_at=AgentRow.updated_at).returning(AgentRow)
        return list(await self._session.scalars(mine))

    async def note(self, row: AgentRow, state: State, now: datetime, look_at: datetime) -> None:
        """Keep what a look has found, unless the agent is in somebody else's hands by now."""
        mine = update(AgentRow).where(AgentRow.id == row.id, AgentRow.look_at == row.look_at)
        seen_at = now if state == "healthy" else AgentRow.seen_at
        told = {"state": state, "looked_at": now, "seen_at": seen_at, "look_at": look_at}
        await self._session.execute(mine.values(**told, updated_at=AgentRow.updated_at))
