"""Statements that find what nobody needs. Each takes a limited number of rows."""

from collections.abc import Collection
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Select, and_, delete, exists, select, union, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.storage.domain.bodies import DOOMED, KEPT, OPEN
from app.modules.storage.models import (
    AccountRow,
    BodyRow,
    PartRow,
    RecordRow,
    RevisionRow,
    UploadRow,
    VectorRow,
)

Tombstone: TypeAlias = type[RecordRow] | type[VectorRow]


class Forgotten(msgspec.Struct, frozen=True):
    """How many tombstones are gone, the highest number among them, and whose bytes go with them."""

    count: int
    seq: int
    body_ids: Collection[UUID] = ()


class SweepRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def stale(self, before: datetime, limit: int) -> list[tuple[UUID, UUID]]:
        """User and id of open bodies whose process is gone.

        An upload's body is its session's to end.
        """
        is_uploads = exists().where(UploadRow.id == BodyRow.id, UploadRow.state == OPEN)
        has_owner = exists().where(AccountRow.id == BodyRow.user_id)
        found = select(BodyRow.user_id, BodyRow.id).where(
            BodyRow.state == OPEN, BodyRow.updated_at <= before, ~is_uploads, has_owner
        )
        rows = await self._session.execute(found.limit(limit))
        return [(user_id, body_id) for user_id, body_id in rows]

    async def doom_orphans(self, limit: int) -> int:
        """Doom bodies of users who are gone; their sums went with the account."""
        has_owner = exists().where(AccountRow.id == BodyRow.user_id)
        found = select(BodyRow.id).where(BodyRow.state != DOOMED, ~has_owner)
        ids = await self._ids(found, limit)
        doomed = update(BodyRow).where(BodyRow.id.in_(ids)).values(state=DOOMED)
        await self._session.execute(doomed)
        return len(ids)

    async def doom_parts(self, lapsed: datetime, before: datetime, limit: int) -> int:
        """Doom the parts of bodies that are doomed since ``before``: nobody reads them any more.

        One that is open may still be written to. It goes when its process has said nothing since
        ``lapsed``, and its body takes no more.
        """
        body = select(BodyRow).where(BodyRow.id == PartRow.body_id)
        is_gone = body.where(BodyRow.state == DOOMED, BodyRow.updated_at <= before).exists()
        is_open = body.where(BodyRow.state == OPEN).exists()
        never_came = (PartRow.state == OPEN) & (PartRow.updated_at <= lapsed) & ~is_open
        wanted = ((PartRow.state == KEPT) & is_gone) | never_came
        ids = await self._ids(select(PartRow.id).where(wanted), limit)
        # Their grace is over with their body's.
        doomed = update(PartRow).where(PartRow.id.in_(ids))
        await self._session.execute(doomed.values(state=DOOMED, updated_at=before))
        return len(ids)

    async def doomed_parts(
        self, before: datetime, born_before: datetime, limit: int
    ) -> list[tuple[UUID, UUID]]:
        """User and id of parts whose bytes may be removed, those that wait longest first."""
        found = select(PartRow.user_id, PartRow.id).where(
            PartRow.state == DOOMED,
            PartRow.updated_at <= before,
            PartRow.created_at <= born_before,
        )
        rows = await self._session.execute(found.order_by(PartRow.updated_at).limit(limit))
        return [(user_id, part_id) for user_id, part_id in rows]

    async def forget_parts(self, part_ids: Collection[UUID]) -> None:
        await self._session.execute(delete(PartRow).where(PartRow.id.in_(part_ids)))

    async def postpone(self, part_ids: Collection[UUID], now: datetime) -> None:
        """Let the others come first."""
        later = update(PartRow).where(PartRow.id.in_(part_ids)).values(updated_at=now)
        await self._session.execute(later)

    async def forget_bodies(self, before: datetime, limit: int) -> int:
        """Delete doomed bodies that have no part left."""
        has_part = exists().where(PartRow.body_id == BodyRow.id)
        gone = (BodyRow.state == DOOMED) & (BodyRow.updated_at <= before) & ~has_part
        ids = await self._ids(select(BodyRow.id).where(gone), limit)
        await self._session.execute(delete(BodyRow).where(BodyRow.id.in_(ids)))
        return len(ids)

    async def users_with_tombstones(self, before: datetime, limit: int) -> list[UUID]:
        """Those who have one that old."""
        records = select(RecordRow.user_id).where(_is_old(RecordRow, before))
        vectors = select(VectorRow.user_id).where(_is_old(VectorRow, before))
        return list(await self._session.scalars(union(records, vectors).limit(limit)))

    async def forget_records(self, user_id: UUID, before: datetime, limit: int) -> Forgotten:
        """Delete old tombstones of records, and what those records were before."""
        ids, seq = await self._oldest(RecordRow, user_id, before, limit)
        earlier = and_(RevisionRow.user_id == user_id, RevisionRow.record_id.in_(ids))
        bodies = await self._session.scalars(select(RevisionRow.body_id).where(earlier))
        body_ids = {body_id for body_id in bodies if body_id is not None}
        await self._session.execute(delete(RevisionRow).where(earlier))
        mine = and_(RecordRow.user_id == user_id, RecordRow.id.in_(ids))
        await self._session.execute(delete(RecordRow).where(mine))
        return Forgotten(len(ids), seq, body_ids)

    async def forget_vectors(self, user_id: UUID, before: datetime, limit: int) -> Forgotten:
        """Delete old tombstones of vectors."""
        ids, seq = await self._oldest(VectorRow, user_id, before, limit)
        await self._session.execute(delete(VectorRow).where(VectorRow.id.in_(ids)))
        return Forgotten(len(ids), seq)

    async def _oldest(
        self, kind: Tombstone, user_id: UUID, before: datetime, limit: int
    ) -> tuple[list[UUID], int]:
        """Their ids, and the highest number among them."""
        mine = select(kind.id, kind.seq).where(kind.user_id == user_id, _is_old(kind, before))
        rows = (await self._session.execute(mine.order_by(kind.seq).limit(limit))).all()
        return [row_id for row_id, _ in rows], max((seq for _, seq in rows), default=0)

    async def _ids(self, found: Select[tuple[UUID]], limit: int) -> list[UUID]:
        """Lock some of them; what another process has in hand is its."""
        mine = found.limit(limit).with_for_update(skip_locked=True)
        return list(await self._session.scalars(mine))


def _is_old(kind: Tombstone, before: datetime) -> ColumnElement[bool]:
    return and_(kind.is_deleted, kind.updated_at <= before)
