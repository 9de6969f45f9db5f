"""Every statement of routing."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import and_, delete, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.modules.routing.domain.names import kind_of, public_name
from app.modules.routing.models import (
    AliasRow,
    CacheRow,
    ModelRow,
    PriceRow,
    ResponseRow,
    WorkerRow,
)

# Columns with a default, which the insert fills in.
MADE_BY_US = frozenset({"id", "created_at", "updated_at"})


class RegistryRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def models(self) -> list[ModelRow]:
        statement = select(ModelRow).order_by(ModelRow.name, ModelRow.position, ModelRow.id)
        return list(await self._session.scalars(statement))

    async def policies(self) -> dict[str, str]:
        """The policy of each name that has one."""
        return {row.name: row.policy for row in await self._session.scalars(select(AliasRow))}

    async def caches(self) -> dict[UUID, int]:
        """Seconds that answers are kept, by key."""
        rows = await self._session.scalars(select(CacheRow))
        return {row.credential_id: row.ttl_s for row in rows}

    async def put_cache(self, credential_id: UUID, ttl_s: int) -> None:
        """Keep a key's answers for ``ttl_s``; 0 ends that."""
        await self._session.execute(delete(CacheRow).where(CacheRow.credential_id == credential_id))
        if ttl_s:
            self._session.add(CacheRow(credential_id=credential_id, ttl_s=ttl_s))

    async def prices(self) -> list[PriceRow]:
        """Oldest version first, so that the last one of a model is its price now."""
        statement = select(PriceRow).order_by(PriceRow.created_at, PriceRow.version)
        return list(await self._session.scalars(statement))

    async def stamp(self) -> tuple[object, ...]:
        """Changes whenever the registry does, also by another process."""
        facts = [
            select(fact).select_from(table).scalar_subquery()
            for table in (ModelRow, AliasRow, CacheRow, PriceRow)
            for fact in (func.count(), func.max(table.updated_at))
        ]
        return tuple((await self._session.execute(select(*facts))).one())

    async def forget_all_but(self, upstreams: Collection[str]) -> None:
        """Drop bundled and discovered models of every other upstream; manual names stay."""
        found = and_(ModelRow.source != "manual", ModelRow.upstream.not_in(upstreams))
        await self._session.execute(delete(ModelRow).where(found))

    async def add_models(self, rows: Sequence[ModelRow]) -> None:
        """Add names that are not taken; a taken name stays what it is."""
        taken = set(await self._session.scalars(select(ModelRow.name)))
        await self._add([row for row in rows if row.name not in taken])

    async def keep_discovered(self, upstream: str, ids: Sequence[str]) -> None:
        """Make the discovered models of ``upstream`` those in ``ids``; touch no other row."""
        rows = await self.models()
        mine = {row.upstream_model for row in rows if row.upstream == upstream}
        taken = {row.name for row in rows}
        for row in rows:
            is_gone = row.upstream_model not in ids
            if row.upstream == upstream and row.source == "discovered" and is_gone:
                await self._session.delete(row)
        fresh = [model for model in dict.fromkeys(ids) if model not in mine]
        await self._add(
            [
                ModelRow(
                    name=public_name(upstream, model, taken),
                    upstream=upstream,
                    upstream_model=model,
                    kind=kind_of(model),
                    source="discovered",
                )
                for model in fresh
            ]
        )

    async def put_models(self, name: str, policy: str, rows: Sequence[ModelRow]) -> None:
        """Make ``rows`` all that ``name`` leads to, whatever it led to before."""
        await self.forget_name(name)
        await self._session.flush()
        self._session.add_all([*rows, AliasRow(name=name, policy=policy)])

    async def forget_name(self, name: str) -> bool:
        """Drop a name; return whether it was there."""
        await self._session.execute(delete(AliasRow).where(AliasRow.name == name))
        gone = delete(ModelRow).where(ModelRow.name == name).returning(ModelRow.id)
        return bool((await self._session.scalars(gone)).all())

    async def add_prices(self, rows: Sequence[PriceRow]) -> None:
        """Add versions that are not there yet."""
        await self._add(rows)

    async def _add(self, rows: Sequence[ModelRow] | Sequence[PriceRow]) -> None:
        """Insert what is not there yet; another process may be adding the same at this moment."""
        if not rows:
            return
        dialect = self._session.get_bind().dialect.name
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        table = type(rows[0]).__table__
        names = [
            column.key
            for column in table.columns
            if column.key not in MADE_BY_US
            and (column.default is None or getattr(rows[0], column.key) is not None)
        ]
        values = [{name: getattr(row, name) for name in names} for row in rows]
        await self._session.execute(insert(type(rows[0])).on_conflict_do_nothing(), values)


class WorkerRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def put(self, row: WorkerRow) -> bool:
        """Add a worker, or replace what it said before; ``False`` if the name is another user's."""
        dialect = self._session.get_bind().dialect.name
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        names = [c.key for c in WorkerRow.__table__.columns if c.key not in MADE_BY_US]
        values = {name: getattr(row, name) for name in names}
        statement = insert(WorkerRow).values(values)
        statement = statement.on_conflict_do_update(
            index_elements=[WorkerRow.name],
            set_=values | {"updated_at": row.heartbeat_at},
            where=WorkerRow.user_id == row.user_id,
        )
        return bool((await self._session.scalars(statement.returning(WorkerRow.id))).all())

    async def beat(self, name: str, user_id: UUID, now: datetime, queue_length: int | None) -> bool:
        """Note that a worker lives; ``False`` if the user has none of that name."""
        told = {} if queue_length is None else {"queue_length": queue_length}
        beat = update(WorkerRow).where(WorkerRow.name == name, WorkerRow.user_id == user_id)
        beat = beat.values(heartbeat_at=now, updated_at=now, **told)
        return bool((await self._session.scalars(beat.returning(WorkerRow.id))).all())

    async def live(self, since: datetime, limit: int) -> list[WorkerRow]:
        """Workers heard of after ``since``: the shared ones first, then by name."""
        found = select(WorkerRow).where(WorkerRow.heartbeat_at > since)
        ordered = found.order_by(WorkerRow.is_shared.desc(), WorkerRow.name).limit(limit)
        return list(await self._session.scalars(ordered))

    async def list(self, user_id: UUID | None, limit: int) -> list[WorkerRow]:
        """One user's workers by name, or everybody's."""
        found = select(WorkerRow).order_by(WorkerRow.name).limit(limit)
        if user_id is not None:
            found = found.where(WorkerRow.user_id == user_id)
        return list(await self._session.scalars(found))

    async def count_others(self, user_id: UUID, name: str) -> int:
        """How many workers a user has, beside the one of this name."""
        others = (WorkerRow.user_id == user_id) & (WorkerRow.name != name)
        return await self._session.scalar(select(func.count(WorkerRow.id)).where(others)) or 0

    async def remove(self, name: str, user_id: UUID) -> bool:
        """Drop a worker; ``False`` if the user has none of that name."""
        gone = delete(WorkerRow).where(WorkerRow.name == name, WorkerRow.user_id == user_id)
        return bool((await self._session.scalars(gone.returning(WorkerRow.id))).all())

    async def sweep(self, before: datetime) -> None:
        """Drop workers that were last heard of before a moment."""
        await self._session.execute(delete(WorkerRow).where(WorkerRow.heartbeat_at < before))


class Link(NamedTuple):
    """A response as part of a conversation."""

    id: UUID
    previous_id: UUID | None
    size_bytes: int


class ResponseRepository:
    """Responses that callers may come back to. Every statement names whose they are."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, row: ResponseRow) -> None:
        self._session.add(row)

    async def find(
        self, user_id: UUID, ids: Collection[UUID], now: datetime
    ) -> dict[UUID, ResponseRow]:
        """Those of ``ids`` that are the user's and not expired."""
        mine = select(ResponseRow).where(
            ResponseRow.id.in_(ids), _is_kept(ResponseRow, user_id, now)
        )
        return {row.id: row for row in await self._session.scalars(mine)}

    async def sizes(self, user_id: UUID, ids: Collection[UUID], now: datetime) -> dict[UUID, int]:
        """Bytes of each, without reading them."""
        mine = select(ResponseRow.id, ResponseRow.size_bytes).where(
            ResponseRow.id.in_(ids), _is_kept(ResponseRow, user_id, now)
        )
        return {row.id: row.size_bytes for row in await self._session.execute(mine)}

    async def chain(self, user_id: UUID, last_id: UUID, now: datetime, limit: int) -> list[Link]:
        """A response, the one before it, and so on, ``limit`` at most."""
        chain = _chain(user_id, last_id, now, limit)
        found = await self._session.execute(
            select(chain.c.id, chain.c.previous_id, chain.c.size_bytes).order_by(chain.c.depth)
        )
        return [Link(row.id, row.previous_id, row.size_bytes) for row in found]

    async def prolong(
        self, user_id: UUID, last_id: UUID, now: datetime, until: datetime, limit: int
    ) -> None:
        """Keep a conversation until ``until``. Less than a day is not worth writing it again."""
        chain = _chain(user_id, last_id, now, limit)
        stale = ResponseRow.expires_at < until - timedelta(days=1)
        prolonged = update(ResponseRow).where(ResponseRow.id.in_(select(chain.c.id)), stale)
        await self._session.execute(
            prolonged.values(expires_at=until).execution_options(synchronize_session=False)
        )

    async def remove(self, user_id: UUID, response_id: UUID, now: datetime) -> bool:
        """Drop a response; ``False`` if the user has none of that name."""
        mine = (ResponseRow.id == response_id) & _is_kept(ResponseRow, user_id, now)
        gone = delete(ResponseRow).where(mine).returning(ResponseRow.id)
        return bool((await self._session.scalars(gone)).all())

    async def sweep(self, now: datetime, limit: int) -> int:
        """Drop some that have expired; return how many."""
        some = select(ResponseRow.id).where(ResponseRow.expires_at <= now).limit(limit)
        gone = delete(ResponseRow).where(ResponseRow.id.in_(some)).returning(ResponseRow.id)
        return len((await self._session.scalars(gone)).all())


def _is_kept(table: Any, user_id: UUID, now: datetime) -> Any:
    return and_(table.user_id == user_id, table.expires_at > now)


def _chain(user_id: UUID, last_id: UUID, now: datetime, limit: int) -> Any:
    columns = ResponseRow.id, ResponseRow.previous_id, ResponseRow.size_bytes
    last = select(*columns, literal(1).label("depth")).where(
        ResponseRow.id == last_id, _is_kept(ResponseRow, user_id, now)
    )
    chain = last.cte("chain", recursive=True)
    earlier = aliased(ResponseRow)
    further = (
        select(earlier.id, earlier.previous_id, earlier.size_bytes, chain.c.depth + 1)
        .join(chain, earlier.id == chain.c.previous_id)
        .where(_is_kept(earlier, user_id, now), chain.c.depth < limit)
    )
    return chain.union_all(further)
