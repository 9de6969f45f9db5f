"""Statements about records and their earlier revisions.

Core statements throughout: putting and getting small records is what storage does most.
"""

from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    Row,
    Select,
    Table,
    Uuid,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Prepared, uuid7
from app.modules.storage.domain.records import Revision
from app.modules.storage.models import BodyRow, RecordRow, RevisionRow

_RECORDS: Final = cast(Table, RecordRow.__table__)
_REVISIONS: Final = cast(Table, RevisionRow.__table__)
_BODIES: Final = cast(Table, BodyRow.__table__)
RECORDS: Final = _RECORDS.c
REVISIONS: Final = _REVISIONS.c
BODIES: Final = _BODIES.c

# In the order of ``Revision``.
_CURRENT: Final = (
    RECORDS.id,
    RECORDS.table_name,
    RECORDS.key_id,
    RECORDS.rev,
    RECORDS.seq,
    RECORDS.is_deleted,
    RECORDS.size_bytes,
    RECORDS.sha256,
    RECORDS.body_id,
    RECORDS.created_at,
    RECORDS.updated_at,
    RECORDS.base,
)
_EARLIER: Final = (
    REVISIONS.record_id,
    REVISIONS.table_name,
    REVISIONS.key_id,
    REVISIONS.rev,
    REVISIONS.seq,
    REVISIONS.is_deleted,
    REVISIONS.size_bytes,
    REVISIONS.sha256,
    REVISIONS.body_id,
    REVISIONS.created_at,
    REVISIONS.changed_at,
)

# What is asked most is put together once: that costs more than asking.
# A foreign key has no type of its own before the table it names is loaded, so it is said here.
_USER: Final = bindparam("user", type_=Uuid())
_RECORD: Final = bindparam("record", type_=Uuid())
_FIND: Final = Prepared(select(*_CURRENT).where(RECORDS.user_id == _USER, RECORDS.id == _RECORD))
_WITH_BYTES: Final = (
    select(*_CURRENT, BODIES.inline)
    .outerjoin_from(_RECORDS, _BODIES, BODIES.id == RECORDS.body_id)
    .where(RECORDS.user_id == _USER, RECORDS.id == _RECORD)
)
_ADD: Final = Prepared(insert(_RECORDS))
_REPLACE: Final = Prepared(update(_RECORDS).where(RECORDS.user_id == _USER, RECORDS.id == _RECORD))
_ARCHIVE: Final = Prepared(insert(_REVISIONS))


class RecordRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, user_id: UUID, record_id: UUID) -> Revision | None:
        """The record as it is, tombstones too."""
        rows = await _FIND.rows(self._session, {"user": user_id, "record": record_id})
        return Revision(*rows[0]) if rows else None

    async def with_bytes(
        self, user_id: UUID, record_id: UUID
    ) -> tuple[Revision, bytes | None] | None:
        """The record as it is, and what lies inline of its body, by one statement."""
        row = await self._one(_WITH_BYTES, {"user": user_id, "record": record_id})
        return None if row is None else (Revision(*row[:-1]), row[-1])

    async def earlier(self, user_id: UUID, record_id: UUID, rev: int) -> Revision | None:
        found = select(*_EARLIER).where(_was(user_id, record_id), REVISIONS.rev == rev)
        row = await self._one(found)
        return None if row is None else Revision(*row)

    async def history(self, user_id: UUID, record_id: UUID, limit: int) -> list[Revision]:
        """Earlier revisions, newest first."""
        found = select(*_EARLIER).where(_was(user_id, record_id))
        rows = await self._session.execute(found.order_by(REVISIONS.rev.desc()).limit(limit))
        return [Revision(*row) for row in rows]

    async def page(
        self, user_id: UUID, table: str | None, after: UUID | None, limit: int
    ) -> list[Revision]:
        """Live records in the order of their ids, those behind ``after``."""
        found = _live(user_id, table)
        if after is not None:
            found = found.where(RECORDS.id > after)
        return await self._many(found.limit(limit))

    async def numbered_page(
        self, user_id: UUID, table: str | None, skip: int, limit: int
    ) -> list[Revision]:
        """Live records in the order of their ids, without the first ``skip``."""
        return await self._many(_live(user_id, table).offset(skip).limit(limit))

    async def add(self, user_id: UUID, record: Revision) -> None:
        await _ADD.rows(self._session, _values(record) | {"user_id": user_id})

    async def replace(self, user_id: UUID, before: Revision, after: Revision) -> None:
        """Make ``after`` the current revision, and ``before`` an earlier one."""
        archived = {
            "id": uuid7(),
            "user_id": user_id,
            "record_id": before.record_id,
            "table_name": before.table,
            "key_id": before.key_id,
            "rev": before.rev,
            "seq": before.seq,
            "is_deleted": before.is_deleted,
            "size_bytes": before.size_bytes,
            "sha256": before.sha256,
            "body_id": before.body_id,
            "changed_at": before.updated_at,
            "created_at": before.created_at,
            "updated_at": after.updated_at,
        }
        await _ARCHIVE.rows(self._session, archived)
        named = {"user": user_id, "record": after.record_id}
        await _REPLACE.rows(self._session, _values(after) | named)

    async def trim(
        self, user_id: UUID, record_id: UUID, before_rev: int, spared_rev: int
    ) -> set[UUID]:
        """Forget revisions older than ``before_rev``; the bodies that nothing shows any more.

        A restored record has the body of an earlier revision, which goes with the last of both.
        """
        old = (_was(user_id, record_id), REVISIONS.rev < before_rev, REVISIONS.rev != spared_rev)
        gone = delete(_REVISIONS).where(*old).returning(REVISIONS.body_id)
        bodies = {body_id for body_id in await self._session.scalars(gone) if body_id}
        if not bodies:
            return bodies
        shown = select(REVISIONS.body_id).where(
            _was(user_id, record_id), REVISIONS.body_id.in_(bodies)
        )
        current = select(RECORDS.body_id).where(
            _is(user_id, record_id), RECORDS.body_id.in_(bodies)
        )
        return bodies - set(await self._session.scalars(shown.union(current)))

    async def by_key(self, user_id: UUID, limit: int) -> list[tuple[str, int, int]]:
        """Each key of live records, how many they are, and their bytes."""
        found = (
            select(RECORDS.key_id, func.count(), func.sum(RECORDS.size_bytes))
            .where(RECORDS.user_id == user_id, RECORDS.is_deleted.is_(False))
            .group_by(RECORDS.key_id)
            .order_by(RECORDS.key_id)
        )
        rows = await self._session.execute(found.limit(limit))
        return [(key_id, records, int(size)) for key_id, records, size in rows]

    async def count_sealed(self, user_id: UUID, key_id: str) -> int:
        """How many live records are sealed with this key."""
        found = select(func.count()).where(
            RECORDS.user_id == user_id, RECORDS.key_id == key_id, RECORDS.is_deleted.is_(False)
        )
        return (await self._session.scalars(found)).one()

    async def _one(
        self, found: Select[Any], named: dict[str, UUID] | None = None
    ) -> Row[Any] | None:
        return (await self._session.execute(found, named)).one_or_none()

    async def _many(self, found: Select[Any]) -> list[Revision]:
        return [Revision(*row) for row in await self._session.execute(found)]


def _live(user_id: UUID, table: str | None) -> Select[Any]:
    found = select(*_CURRENT).where(RECORDS.user_id == user_id, RECORDS.is_deleted.is_(False))
    if table is not None:
        found = found.where(RECORDS.table_name == table)
    return found.order_by(RECORDS.id)


def _is(user_id: UUID, record_id: UUID) -> Any:
    return and_(RECORDS.user_id == user_id, RECORDS.id == record_id)


def _was(user_id: UUID, record_id: UUID) -> Any:
    return and_(REVISIONS.user_id == user_id, REVISIONS.record_id == record_id)


def _values(record: Revision) -> dict[str, Any]:
    return {
        "id": record.record_id,
        "table_name": record.table,
        "key_id": record.key_id,
        "rev": record.rev,
        "seq": record.seq,
        "base": record.base,
        "is_deleted": record.is_deleted,
        "size_bytes": record.size_bytes,
        "sha256": record.sha256,
        "body_id": record.body_id,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
