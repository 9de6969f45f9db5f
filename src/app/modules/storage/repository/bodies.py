"""Statements about bodies and their parts."""

from collections.abc import Collection
from datetime import datetime
from typing import Final, cast
from uuid import UUID

from sqlalchemy import Table, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from app.kernel.db import Prepared
from app.kernel.ports import utc_now
from app.modules.storage.domain.bodies import DOOMED, KEPT, OPEN, Draft, Part
from app.modules.storage.models import BodyRow, PartRow

_ADD: Final = Prepared(insert(cast(Table, BodyRow.__table__)))


class BodyRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, body: BodyRow, *parts: PartRow) -> None:
        self._session.add_all([body, *parts])
        await self._session.flush()

    async def add_kept(self, draft: Draft) -> None:
        """A small body, whose bytes come with its row; without the unit of work, as it is hot."""
        now = utc_now()
        row = {
            "id": draft.id,
            "user_id": draft.user_id,
            "purpose": draft.purpose,
            "state": KEPT,
            "size_bytes": draft.size_bytes,
            "sha256": draft.sha256,
            "inline": draft.inline,
            "created_at": now,
            "updated_at": now,
        }
        await _ADD.rows(self._session, row)

    async def find(self, body_id: UUID) -> BodyRow | None:
        return await self._session.get(BodyRow, body_id)

    async def with_bytes(self, body_id: UUID) -> BodyRow | None:
        """Together with what lies inline."""
        found = select(BodyRow).where(BodyRow.id == body_id).options(undefer(BodyRow.inline))
        return (await self._session.scalars(found)).one_or_none()

    async def move(self, body_id: UUID, before: str, after: str) -> BodyRow | None:
        """Change its state; ``None`` when it was not, or is no more, in the one before."""
        changed = update(BodyRow).where(BodyRow.id == body_id, BodyRow.state == before)
        found = await self._session.scalars(changed.values(state=after).returning(BodyRow))
        return found.one_or_none()

    async def drop_kept(self, body_ids: Collection[UUID]) -> list[tuple[str, int]]:
        """Doom those that are kept; purpose and size in bytes of each."""
        mine = BodyRow.id.in_(body_ids), BodyRow.state == KEPT
        changed = update(BodyRow).where(*mine).values(state=DOOMED)
        rows = await self._session.execute(
            changed.returning(BodyRow.purpose, BodyRow.size_bytes).execution_options(
                synchronize_session=False
            )
        )
        return [(purpose, size_bytes) for purpose, size_bytes in rows]

    async def touch(self, body_id: UUID, now: datetime) -> bool:
        """Say that its process lives; whether it is still open."""
        changed = update(BodyRow).where(BodyRow.id == body_id, BodyRow.state == OPEN)
        found = await self._session.scalars(changed.values(updated_at=now).returning(BodyRow.id))
        return found.one_or_none() is not None

    async def add_part(self, part: PartRow) -> None:
        self._session.add(part)
        await self._session.flush()

    async def touch_part(self, part_id: UUID, now: datetime) -> bool:
        """The same of a part."""
        changed = update(PartRow).where(PartRow.id == part_id, PartRow.state == OPEN)
        found = await self._session.scalars(changed.values(updated_at=now).returning(PartRow.id))
        return found.one_or_none() is not None

    async def keep_part(self, part_id: UUID, sha256: str) -> bool:
        """Its bytes are there. An earlier part of the same number is doomed.

        ``False`` when the part or its body is not open any more. The body is locked: of two who
        send the same part, and of one who sends and one who completes, each sees the other.
        """
        body_id = await self._session.scalar(select(PartRow.body_id).where(PartRow.id == part_id))
        is_open = select(BodyRow.id).where(BodyRow.id == body_id, BodyRow.state == OPEN)
        if await self._session.scalar(is_open.with_for_update()) is None:
            return False
        changed = update(PartRow).where(PartRow.id == part_id, PartRow.state == OPEN)
        kept = changed.values(state=KEPT, sha256=sha256).returning(PartRow)
        part = (await self._session.scalars(kept)).one_or_none()
        if part is None:
            return False
        others = (
            PartRow.body_id == part.body_id,
            PartRow.number == part.number,
            PartRow.id != part_id,
            PartRow.state == KEPT,
        )
        await self._session.execute(update(PartRow).where(*others).values(state=DOOMED))
        return True

    async def doom_part(self, part_id: UUID) -> bool:
        """Give up a part that is open; whether it is given up now.

        One that was kept meanwhile is not: it may belong to something already.
        """
        mine = PartRow.id == part_id
        await self._session.execute(
            update(PartRow).where(mine, PartRow.state == OPEN).values(state=DOOMED)
        )
        is_kept = select(PartRow.id).where(mine, PartRow.state == KEPT)
        return await self._session.scalar(is_kept) is None

    async def parts(self, body_id: UUID) -> list[Part]:
        """Those whose bytes are there, in their order."""
        found = select(PartRow).where(PartRow.body_id == body_id, PartRow.state == KEPT)
        rows = await self._session.scalars(found.order_by(PartRow.number))
        return [Part(row.id, row.number, row.size_bytes, row.sha256) for row in rows]

    async def part_bytes(self) -> int:
        """The bytes that should be in the blob store, once everything doomed is removed."""
        total = await self._session.scalars(select(func.coalesce(func.sum(PartRow.size_bytes), 0)))
        return int(total.one())
