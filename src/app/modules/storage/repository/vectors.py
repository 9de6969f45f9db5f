"""Statements about collections and their vectors. Whoever writes has locked the account."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Prepared
from app.modules.storage.domain.records import NO_SHA256
from app.modules.storage.domain.searches import Shown
from app.modules.storage.models import CollectionRow, VectorRow

VECTOR_TABLE: Final = cast(Table, VectorRow.__table__)
VECTORS: Final = VECTOR_TABLE.c
_SHOWN: Final = select(
    VECTORS.item_id,
    VECTORS.collection_seq,
    VECTORS.rev,
    VECTORS.sha256,
    VECTORS.sealed,
    VECTORS.tags,
).where(VECTORS.collection_id == bindparam("collection_id"), ~VECTORS.is_deleted)
# Every search asks it, so it is built once; and for SQLite with one parameter for all ids, so that
# it is compiled once.
SHOWN: Final = _SHOWN.where(VECTORS.item_id.in_(bindparam("item_ids", expanding=True)))
SHOWN_EMBEDDED: Final = Prepared(
    _SHOWN.where(
        VECTORS.item_id.in_(
            select(func.json_each(bindparam("item_ids", type_=JSON)).table_valued("value").c.value)
        )
    )
)
# What an item is named by, and what stays when it is written again.
LASTING: Final = frozenset({"id", "created_at", "user_id", "collection_id", "item_id"})


class Known(msgspec.Struct, frozen=True):
    """What there is of an item: the newest revision, or the tombstone."""

    rev: int
    is_deleted: bool
    epoch: int
    vector: bytes
    sha256: str
    size_bytes: int
    tags: Mapping[str, str]


class Standing(msgspec.Struct, frozen=True):
    """How many changes a collection has seen, and how many vectors are there."""

    seq: int
    count: int


class Step(msgspec.Struct, frozen=True):
    """An item's newest change, for whoever keeps an index. A deleted one has no vector."""

    vector_id: UUID
    item_id: str
    seq: int
    rev: int
    is_deleted: bool
    epoch: int
    vector: bytes
    tags: Mapping[str, str]


class CollectionRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def find(self, user_id: UUID, name: str) -> CollectionRow | None:
        found = select(CollectionRow).where(_mine(user_id), CollectionRow.name == name)
        return (await self._session.scalars(found)).one_or_none()

    async def all(self, user_id: UUID, limit: int) -> Sequence[CollectionRow]:
        """The first ``limit``, by name."""
        found = select(CollectionRow).where(_mine(user_id)).order_by(CollectionRow.name)
        return (await self._session.scalars(found.limit(limit))).all()

    async def count(self, user_id: UUID) -> int:
        found = select(func.count(CollectionRow.id)).where(_mine(user_id))
        return await self._session.scalar(found) or 0

    async def add(self, row: CollectionRow) -> None:
        self._session.add(row)
        await self._session.flush()

    async def existing(self, collection_ids: Collection[UUID]) -> set[UUID]:
        """Those that are there and not deleted."""
        found = select(CollectionRow.id).where(
            CollectionRow.id.in_(collection_ids), ~CollectionRow.is_deleted
        )
        return set(await self._session.scalars(found))

    async def standing(self, collection_id: UUID) -> Standing | None:
        found = select(CollectionRow.seq, CollectionRow.vector_count).where(
            CollectionRow.id == collection_id, ~CollectionRow.is_deleted
        )
        row = (await self._session.execute(found)).one_or_none()
        return None if row is None else Standing(*row)

    async def forget_deleted(self) -> None:
        """Delete deleted ones that have no tombstone left."""
        has_vector = exists().where(VectorRow.collection_id == CollectionRow.id)
        gone = delete(CollectionRow).where(CollectionRow.is_deleted, ~has_vector)
        await self._session.execute(gone)


class VectorRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    @property
    def _is_postgres(self) -> bool:
        return self._session.get_bind().dialect.name == "postgresql"

    async def known(self, collection_id: UUID, item_ids: Collection[str]) -> dict[str, Known]:
        """What there is of these, tombstones included."""
        found = select(
            VECTORS.item_id,
            VECTORS.rev,
            VECTORS.is_deleted,
            VECTORS.epoch,
            VECTORS.vector,
            VECTORS.sha256,
            VECTORS.size_bytes,
            VECTORS.tags,
        ).where(VECTORS.collection_id == collection_id, VECTORS.item_id.in_(item_ids))
        return {item_id: Known(*rest) for item_id, *rest in await self._session.execute(found)}

    async def put(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add items, or write them again; each row has every column."""
        put: Any = (postgresql.insert if self._is_postgres else sqlite.insert)(VECTOR_TABLE)
        changed = {name: put.excluded[name] for name in rows[0] if name not in LASTING}
        names = [VECTORS.collection_id, VECTORS.item_id]
        await self._session.execute(
            put.on_conflict_do_update(index_elements=names, set_=changed), list(rows)
        )

    async def bury(
        self, collection_id: UUID, item_ids: Sequence[str], seqs: tuple[int, int], now: datetime
    ) -> None:
        """Make tombstones of items, in this order; their numbers begin behind ``seqs``."""
        seq, collection_seq = seqs
        rows = [
            {"item": item_id, "next_seq": seq + i, "next_collection_seq": collection_seq + i}
            for i, item_id in enumerate(item_ids, 1)
        ]
        buried = (
            update(VECTOR_TABLE)
            .where(VECTORS.collection_id == collection_id, VECTORS.item_id == bindparam("item"))
            .values(
                seq=bindparam("next_seq"),
                collection_seq=bindparam("next_collection_seq"),
                rev=VECTORS.rev + 1,
                is_deleted=True,
                vector=b"",
                sealed=b"",
                size_bytes=0,
                sha256=NO_SHA256,
                tags={},
                updated_at=now,
            )
        )
        await self._session.execute(buried, rows)

    async def sizes(
        self, collection_id: UUID, item_ids: Collection[str] | None, limit: int
    ) -> dict[str, int]:
        """Bytes that live items count for: of those named, else of any."""
        found = select(VECTORS.item_id, VECTORS.size_bytes).where(_live(collection_id))
        if item_ids is not None:
            found = found.where(VECTORS.item_id.in_(item_ids))
        rows = await self._session.execute(found.order_by(VECTORS.item_id).limit(limit))
        return dict(rows.tuples().all())

    async def find(self, collection_id: UUID, item_id: str) -> VectorRow | None:
        found = select(VectorRow).where(_live(collection_id), VectorRow.item_id == item_id)
        return (await self._session.scalars(found)).one_or_none()

    async def shown(self, collection_id: UUID, item_ids: Sequence[str]) -> dict[str, Shown]:
        """Those of these that are there."""
        wanted = {"collection_id": collection_id, "item_ids": item_ids}
        rows: Iterable[Any]
        if self._is_postgres:
            rows = await self._session.execute(SHOWN, wanted)
        else:
            rows = await SHOWN_EMBEDDED.rows(self._session, wanted)
        return {row[0]: Shown(*row) for row in rows}

    async def has_epoch(self, collection_id: UUID, epoch: int) -> bool:
        found = select(VECTORS.id).where(_live(collection_id), VECTORS.epoch == epoch).limit(1)
        return await self._session.scalar(found) is not None

    async def equal_to(self, collection_id: UUID, sha256: str, limit: int) -> list[str]:
        """Ids of live items whose blob is exactly this one, newest first."""
        found = select(VECTORS.item_id).where(_live(collection_id), VECTORS.sha256 == sha256)
        newest = found.order_by(VECTORS.collection_seq.desc()).limit(limit)
        return list(await self._session.scalars(newest))

    async def newest(self, collection_id: UUID, limit: int) -> list[str]:
        """Ids of live items, newest first."""
        found = select(VECTORS.item_id).where(_live(collection_id))
        newest = found.order_by(VECTORS.collection_seq.desc()).limit(limit)
        return list(await self._session.scalars(newest))

    async def steps(self, collection_id: UUID, after_seq: int, limit: int) -> list[Step]:
        """Items that have changed since, in the order of their newest changes."""
        found = (
            select(
                VECTORS.id,
                VECTORS.item_id,
                VECTORS.collection_seq,
                VECTORS.rev,
                VECTORS.is_deleted,
                VECTORS.epoch,
                VECTORS.vector,
                VECTORS.tags,
            )
            .where(VECTORS.collection_id == collection_id, VECTORS.collection_seq > after_seq)
            .order_by(VECTORS.collection_seq)
            .limit(limit)
            # Where an index refers to these rows, they must still be there when it is written.
            .with_for_update(read=True, key_share=True)
        )
        return [Step(*row) for row in await self._session.execute(found)]


def _mine(user_id: UUID) -> ColumnElement[bool]:
    return and_(CollectionRow.user_id == user_id, ~CollectionRow.is_deleted)


def _live(collection_id: UUID) -> ColumnElement[bool]:
    return and_(VectorRow.collection_id == collection_id, ~VectorRow.is_deleted)
