"""Tombstones go when they are old, and whoever knows less than they say starts anew."""

from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.adapters.blobs.local import LocalBlobStore
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.digests import Expected
from app.modules.storage.models import (
    AccountRow,
    CollectionRow,
    RecordRow,
    RevisionRow,
    VectorRow,
)
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.service.records import Incoming, RecordDeletion, RecordWrite
from tests.fakes.failing_store import FailingStore
from tests.modules.storage.stockrooms import (
    ANNA,
    DAY_S,
    GRACE_S,
    LARGE,
    SMALL,
    TOMBSTONE_S,
    Stock,
    Stockroom,
    owner,
    people,
    sent,
)

EMPTY = Stock(0, 0, 0, 0, {})
RECORD = UUID(int=100)
# Later than anything that is done at once.
SOON_S = 60.0


@pytest.fixture
async def room(db, tmp_path) -> Stockroom:
    await people(db)
    store = FailingStore(LocalBlobStore(tmp_path / "blobs"))
    return Stockroom(db, store, grace_s=GRACE_S)


async def put(room: Stockroom, data: bytes, record_id: UUID = RECORD, etag: str = "") -> str:
    """The record's new ETag."""
    condition = Condition(etag=etag) if etag else Condition(is_new=True)
    write = RecordWrite(record_id, condition, "notes")
    done = await room.records.put(owner(), write, Incoming(Expected(len(data)), sent(data)))
    return done.etag


async def bury(room: Stockroom, etag: str, record_id: UUID = RECORD) -> int:
    """The tombstone's number."""
    deletion = RecordDeletion(record_id, Condition(etag=etag))
    return (await room.records.delete(owner(), deletion)).seq


async def count(room: Stockroom, kind) -> int:
    async with room.db.read() as session:
        return await session.scalar(select(func.count()).select_from(kind))


async def floor(room: Stockroom) -> int:
    async with room.db.read() as session:
        return await session.scalar(select(AccountRow.floor_seq))


class TestTombstones:
    async def test_stay_as_long_as_they_are_promised(self, room):
        await bury(room, await put(room, LARGE))
        room.clock.advance(TOMBSTONE_S - SOON_S)

        await room.sweep.run()

        assert (await count(room, RecordRow), await floor(room)) == (1, 0)

    async def test_go_then_with_all_that_the_record_was(self, room):
        etag = await put(room, LARGE)
        etag = await put(room, LARGE + b"!", etag=etag)
        await bury(room, etag)
        room.clock.advance(TOMBSTONE_S + SOON_S)
        await room.sweep.run()
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert await count(room, RecordRow) == await count(room, RevisionRow) == 0
        assert await room.stock() == EMPTY

    async def test_raise_the_floor_to_the_newest_that_went(self, room):
        seqs = []
        for number in range(3):
            record_id = UUID(int=200 + number)
            etag = await put(room, SMALL, record_id)
            seqs.append(await bury(room, etag, record_id))
            room.clock.advance(DAY_S)
        room.clock.advance(TOMBSTONE_S - 2 * DAY_S + SOON_S)

        await room.sweep.run()

        assert await floor(room) == seqs[1]

    async def test_leave_records_that_live(self, room):
        await put(room, LARGE)
        room.clock.advance(2 * TOMBSTONE_S)

        await room.sweep.run()

        assert (await count(room, RecordRow), await floor(room)) == (1, 0)

    async def test_of_vectors_go_too(self, room):
        async with room.db.begin() as session:
            await AccountRepository(session).lock(ANNA)
            collection = _collection()
            session.add(collection)
            await session.flush()
            session.add_all(
                [_vector(room, collection.id, 4, is_deleted=True), _vector(room, collection.id, 5)]
            )
        room.clock.advance(TOMBSTONE_S + SOON_S)

        await room.sweep.run()

        assert (await count(room, VectorRow), await floor(room)) == (1, 4)


def _collection() -> CollectionRow:
    return CollectionRow(
        user_id=ANNA, name="notes", mode="sealed", dimension=0, model="", epoch=0, beta=None
    )


def _vector(
    room: Stockroom, collection_id: UUID, seq: int, *, is_deleted: bool = False
) -> VectorRow:
    return VectorRow(
        user_id=ANNA,
        collection_id=collection_id,
        item_id=str(seq),
        seq=seq,
        collection_seq=seq,
        rev=1,
        is_deleted=is_deleted,
        epoch=0,
        vector=b"",
        sealed=b"",
        size_bytes=0,
        sha256="",
        tags={},
        updated_at=room.clock(),
    )
