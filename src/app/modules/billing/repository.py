"""Every statement of billing."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast
from uuid import UUID

import msgspec
from sqlalchemy import Insert, Table, bindparam, func, insert, literal, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.ports import utc_now
from app.modules.billing.domain import Usage
from app.modules.billing.models import UsageRow

_table = cast("Table", UsageRow.__table__)
# SQLite keeps a UUID as its 32 hexadecimal digits.
_encode = msgspec.json.Encoder(uuid_format="hex").encode


class UsageRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def store(self, usages: Sequence[Usage]) -> None:
        """Insert rows; those that are there already stay as they are."""
        now = utc_now()
        if self._session.get_bind().dialect.name == "sqlite":
            await self._session.execute(_insert_json(now), {"rows": _encode(usages).decode()})
            return
        stamps = {"created_at": now, "updated_at": now}
        rows = [msgspec.structs.asdict(usage) | stamps for usage in usages]
        statement = postgresql.insert(_table).on_conflict_do_nothing()
        await self._session.execute(statement, rows)

    async def of_user(self, user_id: UUID, before: UUID | None, limit: int) -> list[UsageRow]:
        """Newest first: ids are UUIDv7, so their order is the order of the calls."""
        statement = select(UsageRow).where(UsageRow.user_id == user_id)
        if before is not None:
            statement = statement.where(UsageRow.id < before)
        rows = await self._session.scalars(statement.order_by(UsageRow.id.desc()).limit(limit))
        return list(rows)


def _insert_json(now: datetime) -> Insert:
    """One statement for all rows, out of one JSON text.

    ``executemany`` would give the interpreter's lock back and ask for it again for each row, and
    each time wait for the event loop to let go of it.
    """
    row = func.json_each(bindparam("rows")).table_valued("value").c.value
    members = [func.json_extract(row, f"$.{name}") for name in Usage.__struct_fields__]
    stamps = [literal(now, UsageRow.created_at.type), literal(now, UsageRow.created_at.type)]
    names = [*Usage.__struct_fields__, "created_at", "updated_at"]
    return insert(_table).prefix_with("OR IGNORE").from_select(names, select(*members, *stamps))
