"""Statements that compare what should be with what is, page by page."""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.storage.domain.bodies import KEPT, OPEN
from app.modules.storage.models import (
    AccountRow,
    BackupRow,
    BodyRow,
    PartRow,
    RecordRow,
    RevisionRow,
    VectorRow,
)

NOWHERE = UUID(int=0)


class Counted(msgspec.Struct, frozen=True):
    """Bytes of one user: records and backups that are kept, and those on their way in."""

    record_bytes: int = 0
    record_reserved_bytes: int = 0
    backup_bytes: int = 0
    backup_reserved_bytes: int = 0


class InventoryRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def known(self, part_ids: Collection[UUID]) -> set[UUID]:
        """Those that have a row, in whatever state."""
        found = select(PartRow.id).where(PartRow.id.in_(part_ids))
        return set(await self._session.scalars(found))

    async def kept_parts(self, after: UUID, limit: int) -> Sequence[PartRow]:
        """Parts whose bytes must be there, by id."""
        found = select(PartRow).where(PartRow.state == KEPT, PartRow.id > after)
        return (await self._session.scalars(found.order_by(PartRow.id).limit(limit))).all()

    async def is_kept(self, part_id: UUID) -> bool:
        found = select(PartRow.id).where(PartRow.id == part_id, PartRow.state == KEPT)
        return await self._session.scalar(found) is not None

    async def kept_bodies(self, after: UUID, limit: int) -> Sequence[tuple[UUID, bool, bool]]:
        """Each id, whether all bytes are there by the rows, and whether something knows of it."""
        parts = (
            select(func.coalesce(func.sum(PartRow.size_bytes), 0))
            .where(PartRow.body_id == BodyRow.id, PartRow.state == KEPT)
            .scalar_subquery()
        )
        is_whole = (BodyRow.inline.is_not(None)) | (parts == BodyRow.size_bytes)
        found = select(BodyRow.id, is_whole, is_claimed()).where(
            BodyRow.state == KEPT, BodyRow.id > after
        )
        rows = await self._session.execute(found.order_by(BodyRow.id).limit(limit))
        return [(body_id, bool(whole), bool(claimed)) for body_id, whole, claimed in rows]

    async def is_unclaimed(self, body_id: UUID) -> UUID | None:
        """Whose body it is, when it is kept and nothing knows of it."""
        found = select(BodyRow.user_id).where(
            BodyRow.id == body_id, BodyRow.state == KEPT, ~is_claimed()
        )
        return (await self._session.scalars(found)).one_or_none()

    async def accounts(self, after: UUID, limit: int) -> Sequence[AccountRow]:
        found = select(AccountRow).where(AccountRow.id > after)
        return (await self._session.scalars(found.order_by(AccountRow.id).limit(limit))).all()

    async def counted(self, user_ids: Collection[UUID]) -> dict[UUID, Counted]:
        """What the bodies of each user come to; vectors count as records."""
        found = (
            select(BodyRow.user_id, BodyRow.purpose, BodyRow.state, func.sum(BodyRow.size_bytes))
            .where(BodyRow.user_id.in_(user_ids), BodyRow.state.in_((KEPT, OPEN)))
            .group_by(BodyRow.user_id, BodyRow.purpose, BodyRow.state)
        )
        sums: dict[UUID, dict[str, int]] = {user_id: {} for user_id in user_ids}
        for user_id, purpose, state, size_bytes in await self._session.execute(found):
            kind = "bytes" if state == KEPT else "reserved_bytes"
            sums[user_id][f"{purpose}_{kind}"] = int(size_bytes)
        for user_id, size_bytes in await self._vectors(user_ids):
            sums[user_id]["record_bytes"] = sums[user_id].get("record_bytes", 0) + size_bytes
        return {user_id: Counted(**found) for user_id, found in sums.items()}

    async def _vectors(self, user_ids: Collection[UUID]) -> list[tuple[UUID, int]]:
        found = (
            select(VectorRow.user_id, func.sum(VectorRow.size_bytes))
            .where(VectorRow.user_id.in_(user_ids), ~VectorRow.is_deleted)
            .group_by(VectorRow.user_id)
        )
        rows = await self._session.execute(found)
        return [(user_id, int(size_bytes)) for user_id, size_bytes in rows]


def counts_of(account: AccountRow) -> Counted:
    """What the account says."""
    return Counted(
        account.record_bytes,
        account.record_reserved_bytes,
        account.backup_bytes,
        account.backup_reserved_bytes,
    )


def correct(account: AccountRow, truth: Counted) -> None:
    account.record_bytes = truth.record_bytes
    account.record_reserved_bytes = truth.record_reserved_bytes
    account.backup_bytes = truth.backup_bytes
    account.backup_reserved_bytes = truth.backup_reserved_bytes


def is_claimed() -> ColumnElement[bool]:
    """Whether something shows the body."""
    return (
        exists().where(RecordRow.user_id == BodyRow.user_id, RecordRow.body_id == BodyRow.id)
        | exists().where(RevisionRow.user_id == BodyRow.user_id, RevisionRow.body_id == BodyRow.id)
        | exists().where(BackupRow.user_id == BodyRow.user_id, BackupRow.body_id == BodyRow.id)
    )
