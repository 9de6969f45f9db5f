"""Statements about usage rows."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Table, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.ports import utc_now
from app.modules.billing.domain.reports import UsageFilter
from app.modules.billing.domain.usage import Usage
from app.modules.billing.models import UsageRow

# Few sizes: SQLite keeps the last hundred statements compiled, and one of 250 rows is large.
ROWS_A_STATEMENT = (250, 50, 10, 1)
CLOCK_SLACK_MS = 60_000
SQLITE_TIMESTAMP = "%Y-%m-%d %H:%M:%S.%f"

_table = cast("Table", UsageRow.__table__)


class UsageRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def store(self, usages: Sequence[Usage]) -> set[UUID]:
        """Insert rows, and return which; those that are there already stay as they are."""
        now = utc_now()
        if self._session.get_bind().dialect.name == "sqlite":
            return await self._store_many(usages, now)
        stamps = {"created_at": now, "updated_at": now}
        rows = [msgspec.structs.asdict(usage) | stamps for usage in usages]
        statement = postgresql.insert(_table).on_conflict_do_nothing().returning(_table.c.id)
        return set(await self._session.scalars(statement, rows))

    async def _store_many(self, usages: Sequence[Usage], now: datetime) -> set[UUID]:
        """Insert many rows by one statement, as SQLite keeps them, past SQLAlchemy's compiler.

        ``executemany`` costs twice as much, and gives the interpreter's lock back and asks for it
        again at each row, while the event loop wants it.
        """
        at = now.strftime(SQLITE_TIMESTAMP)
        connection = await self._session.connection()
        stored: set[UUID] = set()
        for some in _portions(usages):
            values = [value for usage in some for value in (*_as_sqlite(usage), at, at)]
            done = await connection.exec_driver_sql(_insert(len(some)), tuple(values))
            ids = {usage.id for usage in some}
            stored |= ids if done.rowcount == len(some) else await self._new(ids, now)
        return stored

    async def _new(self, ids: set[UUID], now: datetime) -> set[UUID]:
        """Which of ``ids`` were stored just now; asked only where some were there already."""
        statement = select(UsageRow.id).where(UsageRow.id.in_(ids), UsageRow.created_at == now)
        return set(await self._session.scalars(statement))

    async def page(self, wanted: UsageFilter, before: UUID | None, limit: int) -> list[UsageRow]:
        """Newest first: ids are UUIDv7, so their order is the order of the calls."""
        statement = select(UsageRow).where(*conditions(wanted))
        if before is not None:
            statement = statement.where(UsageRow.id < before)
        rows = await self._session.scalars(statement.order_by(UsageRow.id.desc()).limit(limit))
        return list(rows)


def conditions(wanted: UsageFilter) -> list[ColumnElement[bool]]:
    """What a row must be to be wanted."""
    given: tuple[tuple[object, ColumnElement[bool]], ...] = (
        (wanted.user_id, UsageRow.user_id == wanted.user_id),
        (wanted.model, UsageRow.model == wanted.model),
        (wanted.key_id, UsageRow.credential_id == wanted.key_id),
        (wanted.from_ms, UsageRow.id >= _first_id(wanted.from_ms or 0)),
        (wanted.from_ms, UsageRow.started_at_ms >= (wanted.from_ms or 0)),
        (wanted.to_ms, UsageRow.started_at_ms < (wanted.to_ms or 0)),
    )
    return [condition for value, condition in given if value is not None]


def _first_id(from_ms: int) -> UUID:
    """An id before those of all calls from then on: the indexes are in the order of ids."""
    return UUID(int=max(0, from_ms - CLOCK_SLACK_MS) << 80)


def _portions(usages: Sequence[Usage]) -> Iterator[Sequence[Usage]]:
    start = 0
    for size in ROWS_A_STATEMENT:
        while len(usages) - start >= size:
            yield usages[start : start + size]
            start += size


@lru_cache(maxsize=len(ROWS_A_STATEMENT))
def _insert(count: int) -> str:
    """The statement for ``count`` rows. Its text is made of our own column names alone."""
    names = (*Usage.__struct_fields__, "created_at", "updated_at")
    row = f"({', '.join('?' * len(names))})"
    rows = ", ".join([row] * count)
    return f"INSERT OR IGNORE INTO {_table.name} ({', '.join(names)}) VALUES {rows}"  # noqa: S608 - our own names


def _as_sqlite(usage: Usage) -> tuple[Any, ...]:
    """SQLite has no UUID: SQLAlchemy keeps one there as its 32 hexadecimal digits."""
    call, user, credential, *others = msgspec.structs.astuple(usage)
    return (call.hex, user.hex, credential.hex, *others)
