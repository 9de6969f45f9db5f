"""Every statement of billing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec
from sqlalchemy import Table, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.ports import utc_now
from app.modules.billing.domain import Usage
from app.modules.billing.models import UsageRow

ROWS_A_STATEMENT = 250
SQLITE_TIMESTAMP = "%Y-%m-%d %H:%M:%S.%f"

_table = cast("Table", UsageRow.__table__)


class UsageRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def store(self, usages: Sequence[Usage]) -> None:
        """Insert rows; those that are there already stay as they are."""
        now = utc_now()
        if self._session.get_bind().dialect.name == "sqlite":
            await self._store_many(usages, now)
            return
        stamps = {"created_at": now, "updated_at": now}
        rows = [msgspec.structs.asdict(usage) | stamps for usage in usages]
        statement = postgresql.insert(_table).on_conflict_do_nothing()
        await self._session.execute(statement, rows)

    async def _store_many(self, usages: Sequence[Usage], now: datetime) -> None:
        """Insert many rows by one statement, as SQLite keeps them, past SQLAlchemy's compiler.

        ``executemany`` costs twice as much, and gives the interpreter's lock back and asks for it
        again at each row, while the event loop wants it.
        """
        at = now.strftime(SQLITE_TIMESTAMP)
        connection = await self._session.connection()
        for start in range(0, len(usages), ROWS_A_STATEMENT):
            some = usages[start : start + ROWS_A_STATEMENT]
            values = [value for usage in some for value in (*_as_sqlite(usage), at, at)]
            await connection.exec_driver_sql(_insert(len(some)), tuple(values))

    async def of_user(self, user_id: UUID, before: UUID | None, limit: int) -> list[UsageRow]:
        """Newest first: ids are UUIDv7, so their order is the order of the calls."""
        statement = select(UsageRow).where(UsageRow.user_id == user_id)
        if before is not None:
            statement = statement.where(UsageRow.id < before)
        rows = await self._session.scalars(statement.order_by(UsageRow.id.desc()).limit(limit))
        return list(rows)


def _insert(count: int) -> str:
    """The statement for ``count`` rows. Its text is made of our own column names alone."""
    names = (*Usage.__struct_fields__, "created_at", "updated_at")
    row = f"({', '.join('?' * len(names))})"
    rows = ", ".join([row] * count)
    return f"INSERT OR IGNORE INTO {_table.name} ({', '.join(names)}) VALUES {rows}"  # noqa: S608 - our own names


def _as_sqlite(usage: Usage) -> tuple[Any, ...]:
    """SQLite has no UUID: SQLAlchemy keeps one there as its 32 hexadecimal digits."""
    values = msgspec.structs.astuple(usage)
    return tuple(value.hex if isinstance(value, UUID) else value for value in values)
