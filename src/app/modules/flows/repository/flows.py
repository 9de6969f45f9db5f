"""Statements about flows and their versions."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Select, String, Table, Uuid, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Prepared, uuid7
from app.kernel.ports import utc_now
from app.modules.flows.domain.definitions import Flow
from app.modules.flows.domain.versions import Version, definition_id, encode
from app.modules.flows.models import DefinitionRow, FlowRow

# Definitions in one statement.
BATCH: Final = 50
FLOWS: Final = cast(Table, FlowRow.__table__)
_OWN_HEADS: Final = select(FLOWS.c.flow_id, FLOWS.c.definition_id).where(
    FLOWS.c.user_id == bindparam("the_user", type_=Uuid()), FLOWS.c.is_active
)
_HEADS: Final = _OWN_HEADS.where(
    FLOWS.c.flow_id.in_(bindparam("flow_ids", type_=String(), expanding=True))
)
# Every execution begins with it, and most flows have no other flow inside.
HEAD: Final = Prepared(_OWN_HEADS.where(FLOWS.c.flow_id == bindparam("the_flow", type_=String())))


class FlowRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self, user_id: UUID, flow_id: str) -> FlowRow | None:
        """The user's flow, also a deleted one, and nobody else's until the commit."""
        found = select(FlowRow).where(FlowRow.user_id == user_id, FlowRow.flow_id == flow_id)
        fresh = found.with_for_update().execution_options(populate_existing=True)
        return (await self._session.scalars(fresh)).one_or_none()

    async def find(self, user_id: UUID, flow_id: str) -> tuple[FlowRow, DefinitionRow] | None:
        """The user's flow with its newest definition."""
        found = (await self._session.execute(_whole(user_id, FlowRow.flow_id == flow_id))).first()
        return None if found is None else (found[0], found[1])

    async def add(self, user_id: UUID, first: DefinitionRow) -> bool:
        """Make a flow of its first version; return whether there was none of this id."""
        told = {
            "id": uuid7(),
            "user_id": user_id,
            "flow_id": first.flow_id,
            "definition_id": first.id,
            "is_active": True,
            "created_at": first.created_at,
            "updated_at": first.created_at,
        }
        keys = [FlowRow.user_id, FlowRow.flow_id]
        kept = self._insert()(FlowRow).values(told).on_conflict_do_nothing(index_elements=keys)
        return await self._session.scalar(kept.returning(FlowRow.id)) is not None

    async def heads(self, user_id: UUID, flow_ids: Collection[str]) -> dict[str, UUID]:
        """The newest definition of each of these flows that the user has."""
        if len(flow_ids) == 1:
            [flow_id] = flow_ids
            named = {"the_user": user_id, "the_flow": flow_id}
            return {row[0]: row[1] for row in await HEAD.rows(self._session, named)}
        names = {"the_user": user_id, "flow_ids": list(flow_ids)}
        return dict((await self._session.execute(_HEADS, names)).tuples().all())

    async def page(
        self, user_id: UUID, *, limit: int, offset: int
    ) -> Sequence[tuple[FlowRow, DefinitionRow]]:
        """The user's flows with their newest definitions, by id."""
        found = _whole(user_id).order_by(FlowRow.flow_id)
        rows = await self._session.execute(found.limit(limit).offset(offset))
        return [(row[0], row[1]) for row in rows]

    async def count(self, user_id: UUID) -> int:
        return (
            await self._session.scalar(select(func.count(FlowRow.id)).where(_active(user_id))) or 0
        )

    async def write(self, user_id: UUID | None, flows: Sequence[Flow]) -> list[DefinitionRow]:
        """Write the versions that are not there yet, and return all of them."""
        rows = [_row(user_id, flow) for flow in flows]
        for start in range(0, len(rows), BATCH):
            told = [_told(row) for row in rows[start : start + BATCH]]
            statement = self._insert()(DefinitionRow).values(told)
            await self._session.execute(
                statement.on_conflict_do_nothing(index_elements=[DefinitionRow.id])
            )
        return rows

    async def definition(
        self, user_id: UUID | None, flow_id: str, version: str
    ) -> DefinitionRow | None:
        """The one that was written last, where a file's version has changed what it says."""
        wanted = _versions(user_id, flow_id).where(DefinitionRow.version == version)
        newest = wanted.order_by(DefinitionRow.created_at.desc()).limit(1)
        return (await self._session.scalars(newest)).one_or_none()

    async def definitions(self, ids: Collection[UUID]) -> Sequence[DefinitionRow]:
        found = select(DefinitionRow).where(DefinitionRow.id.in_(ids))
        return (await self._session.scalars(found)).all()

    async def versions(self, user_id: UUID | None, flow_id: str, limit: int) -> list[Version]:
        """Those that were written last, in any order."""
        newest = _versions(user_id, flow_id).order_by(DefinitionRow.created_at.desc())
        told = newest.with_only_columns(DefinitionRow.version, DefinitionRow.created_at)
        rows = await self._session.execute(told.limit(limit))
        return [Version(version, created_at) for version, created_at in rows]

    async def count_versions(self, user_id: UUID, flow_id: str) -> int:
        counted = _versions(user_id, flow_id).with_only_columns(func.count(DefinitionRow.id))
        return await self._session.scalar(counted) or 0

    async def begun(self, flow_ids: Collection[str]) -> dict[str, datetime]:
        """When the first definition of each of the installation's flows was written."""
        first = func.min(DefinitionRow.created_at)
        found = (
            select(DefinitionRow.flow_id, first)
            .where(DefinitionRow.user_id.is_(None), DefinitionRow.flow_id.in_(flow_ids))
            .group_by(DefinitionRow.flow_id)
        )
        return dict((await self._session.execute(found)).tuples().all())

    def _insert(self) -> type[postgresql.Insert] | type[sqlite.Insert]:
        dialect = self._session.get_bind().dialect.name
        return postgresql.Insert if dialect == "postgresql" else sqlite.Insert


def _active(user_id: UUID) -> ColumnElement[bool]:
    return (FlowRow.user_id == user_id) & FlowRow.is_active


def _whole(user_id: UUID, *terms: ColumnElement[bool]) -> Select[tuple[FlowRow, DefinitionRow]]:
    newest = DefinitionRow.id == FlowRow.definition_id
    return (
        select(FlowRow, DefinitionRow).join(DefinitionRow, newest).where(_active(user_id), *terms)
    )


def _versions(user_id: UUID | None, flow_id: str) -> Select[tuple[DefinitionRow]]:
    whose = DefinitionRow.user_id.is_(None) if user_id is None else DefinitionRow.user_id == user_id
    return select(DefinitionRow).where(whose, DefinitionRow.flow_id == flow_id)


def _row(user_id: UUID | None, flow: Flow) -> DefinitionRow:
    body, now = encode(flow), utc_now()
    return DefinitionRow(
        id=definition_id(user_id, body),
        user_id=user_id,
        flow_id=flow.flow_id,
        version=flow.version,
        body=body,
        created_at=now,
        updated_at=now,
    )


def _told(row: DefinitionRow) -> dict[str, object]:
    return {column.name: getattr(row, column.name) for column in DefinitionRow.__table__.columns}
