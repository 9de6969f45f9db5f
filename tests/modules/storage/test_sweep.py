"""What nobody needs goes, in two phases; what anybody needs stays."""

import asyncio
import logging
from contextlib import aclosing
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import delete, select

from app.adapters.blobs.intake import BlobsDown
from app.adapters.blobs.local import LocalBlobStore
from app.kernel.ports import BlobLink
from app.modules.auth.models import UserRow
from app.modules.storage.domain.bodies import OPEN, blob_key
from app.modules.storage.domain.digests import Expected
from app.modules.storage.models import (
    PartRow,
    UploadRow,
)
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.service.bodies import Intake
from app.modules.storage.service.sweep import LEASE_S, LINK_LASTS_S, MAX_FAILURES, PARALLEL
from tests.fakes.failing_store import FailingStore
from tests.modules.storage.stockrooms import (
    ANNA,
    DAY_S,
    GRACE_S,
    LARGE,
    SMALL,
    Stock,
    Stockroom,
    people,
    sent,
)

EMPTY = Stock(0, 0, 0, 0, {})
# Later than anything that is done at once.
SOON_S = 60.0


class LinkingStore(FailingStore):
    """A blob store that lets others put."""

    async def link(self, key: str, *, size_bytes: int, sha256: str) -> BlobLink:
        raise NotImplementedError


@pytest.fixture
async def room(db, tmp_path) -> Stockroom:
    await people(db)
    store = FailingStore(LocalBlobStore(tmp_path / "blobs"))
    return Stockroom(db, store, grace_s=GRACE_S)


async def dropped(room: Stockroom, count: int = 1) -> None:
    for _ in range(count):
        await room.drop((await room.kept(LARGE)).id)


class TestOpenBodies:
    async def test_stay_while_their_process_may_live(self, room):
        draft = await room.take_in(LARGE)
        room.clock.advance(LEASE_S - SOON_S)

        await room.sweep.run()
        await room.keep(draft)

        assert await room.read(draft.id) == LARGE

    async def test_give_their_room_back_when_their_process_is_gone(self, room):
        await room.take_in(LARGE)
        room.clock.advance(LEASE_S + SOON_S)

        await room.sweep.run()

        assert (await room.stock()).reserved_bytes == 0

    async def test_go_with_their_bytes_after_the_grace(self, room):
        await room.take_in(LARGE)
        room.clock.advance(LEASE_S + SOON_S)
        await room.sweep.run()
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert await room.stock() == EMPTY

    async def test_of_uploads_are_their_sessions_to_end(self, room):
        async with room.db.begin() as session:
            account = await AccountRepository(session).lock(ANNA)
            intake = Intake(ANNA, "record", Expected(len(LARGE)), None)
            body = await room.bodies.open_body(session, account, intake)
            session.add(_upload(room, body.id))
        room.clock.advance(10 * LEASE_S)

        await room.sweep.run()

        assert (await room.stock()).reserved_bytes == len(LARGE)

    async def test_of_expired_uploads_go(self, room):
        async with room.db.begin() as session:
            account = await AccountRepository(session).lock(ANNA)
            intake = Intake(ANNA, "record", Expected(len(LARGE)), None)
            body = await room.bodies.open_body(session, account, intake)
            session.add(_upload(room, body.id))
        await room.bodies.take_part(body, 1, Expected(len(LARGE)), sent(LARGE))
        room.clock.advance(DAY_S + SOON_S)
        await room.sweep.run()
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert await room.stock() == EMPTY


class TestDoomedBodies:
    async def test_keep_their_bytes_for_whoever_reads_them(self, room):
        draft = await room.kept(LARGE)

        async with aclosing(room.bodies.read(draft.id)) as chunks:
            await room.drop(draft.id)
            await room.sweep.run()
            assert b"".join([chunk async for chunk in chunks]) == LARGE

    async def test_go_after_the_grace(self, room):
        await dropped(room)
        await room.drop((await room.kept(SMALL)).id)
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert await room.stock() == EMPTY

    async def test_go_and_leave_the_others(self, room):
        draft = await room.kept(LARGE)
        await dropped(room)
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        stock = await room.stock()
        assert stock.states == {"body kept": 1, "part kept": 1}
        assert stock.blob_bytes == stock.part_bytes == stock.kept_bytes == len(LARGE)
        assert await room.read(draft.id) == LARGE

    async def test_go_in_one_round_however_many_they_are(self, room):
        await dropped(room, 3 * PARALLEL + 1)
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert await room.stock() == EMPTY


class TestParts:
    async def test_that_were_replaced_go_while_their_body_is_open(self, room):
        async with room.db.begin() as session:
            account = await AccountRepository(session).lock(ANNA)
            intake = Intake(ANNA, "record", Expected(len(LARGE)), None)
            body = await room.bodies.open_body(session, account, intake)
        for data in (b"x" * 40, LARGE):
            await room.bodies.take_part(body, 1, Expected(40), sent(data))
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        stock = await room.stock()
        assert stock.states == {"body open": 1, "part kept": 1}
        assert stock.blob_bytes == len(LARGE)

    async def test_that_are_open_stay_while_they_may_be_written(self, room):
        draft = await room.kept(LARGE)
        late = PartRow(user_id=ANNA, body_id=draft.id, number=2, state=OPEN, size_bytes=1)
        async with room.db.begin() as session:
            session.add(late)
        await room.drop(draft.id)
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert (await room.stock()).states == {"body doomed": 1, "part open": 1}

    async def test_that_never_came_go_when_their_process_is_gone(self, room):
        draft = await room.kept(LARGE)
        late = PartRow(user_id=ANNA, body_id=draft.id, number=2, state=OPEN, size_bytes=1)
        async with room.db.begin() as session:
            session.add(late)
        room.clock.advance(LEASE_S + SOON_S)

        await room.sweep.run()

        assert (await room.stock()).states == {"body kept": 1, "part kept": 1}

    async def test_are_not_forgotten_while_somebody_may_hold_a_link(self, db, tmp_path):
        await people(db)
        room = Stockroom(db, LinkingStore(LocalBlobStore(tmp_path / "blobs")), grace_s=GRACE_S)
        await dropped(room)
        room.clock.advance(LINK_LASTS_S - SOON_S)
        await room.sweep.run()
        early = await room.stock()
        room.clock.advance(2 * SOON_S)

        await room.sweep.run()

        assert early.states == {"body doomed": 1, "part doomed": 1}
        assert await room.stock() == EMPTY


class TestStore:
    async def test_that_fails_ends_the_round(self, room, caplog):
        await dropped(room, 2 * PARALLEL)
        room.clock.advance(GRACE_S + SOON_S)
        room.blobs.error = BlobsDown("away")

        with caplog.at_level(logging.WARNING):
            await room.sweep.run()

        assert "storage.sweep-stopped" in caplog.messages
        assert (await room.stock()).states["part doomed"] == 2 * PARALLEL

    async def test_that_is_back_lets_the_next_round_go_on(self, room):
        await dropped(room, 2 * PARALLEL)
        room.clock.advance(GRACE_S + SOON_S)
        room.blobs.error = BlobsDown("away")
        await room.sweep.run()
        room.blobs.error = None
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert await room.stock() == EMPTY

    async def test_that_refuses_a_few_blobs_does_not_hold_up_the_others(self, room):
        await dropped(room, PARALLEL)
        room.blobs.refused = set((await room.blob_keys())[: MAX_FAILURES - 1])
        await dropped(room, PARALLEL)
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert set(await room.blob_keys()) == room.blobs.refused
        assert (await room.stock()).states["part doomed"] == len(room.blobs.refused)

    async def test_is_asked_before_the_row_is_forgotten(self, room):
        """A crash between the two is the failure of the second one."""
        await dropped(room)
        (key,) = await room.blob_keys()
        room.clock.advance(GRACE_S + SOON_S)
        room.blobs.refused = {key}
        await room.sweep.run()
        kept = (await room.stock()).states
        room.blobs.refused = set()
        await room.blobs.delete(key)
        room.clock.advance(GRACE_S + SOON_S)

        await room.sweep.run()

        assert kept == {"body doomed": 1, "part doomed": 1}
        assert await room.stock() == EMPTY


class TestOrphans:
    async def test_go_with_their_bytes(self, room):
        await room.kept(LARGE)
        await room.kept(SMALL)
        await room.take_in(LARGE)
        async with room.db.begin() as session:
            await session.execute(delete(UserRow).where(UserRow.id == ANNA))
        await room.sweep.run()
        room.clock.advance(LEASE_S + SOON_S)

        await room.sweep.run()

        assert await room.stock() == EMPTY


class TestRun:
    async def test_by_two_at_once_removes_everything_once(self, room):
        for _ in range(5):
            await room.take_in(LARGE)
        await dropped(room, 20)
        room.clock.advance(LEASE_S + GRACE_S)

        await asyncio.gather(*(room.sweep.run() for _ in range(3)))
        room.clock.advance(GRACE_S + SOON_S)
        await room.sweep.run()

        assert await room.stock() == EMPTY

    async def test_a_second_time_changes_nothing(self, room):
        draft = await room.kept(LARGE)
        await dropped(room)
        await room.sweep_late()
        before = await room.stock()

        await room.sweep.run()

        assert await room.stock() == before
        assert await room.blob_keys() == [await _key(room, draft.id)]


async def _key(room: Stockroom, body_id: UUID) -> str:
    async with room.db.read() as session:
        part_id = await session.scalar(select(PartRow.id).where(PartRow.body_id == body_id))
    return blob_key(ANNA, part_id)


def _upload(room: Stockroom, body_id: UUID) -> UploadRow:
    return UploadRow(
        id=body_id,
        user_id=ANNA,
        state=OPEN,
        target=b"{}",
        size_bytes=len(LARGE),
        part_bytes=len(LARGE),
        sha256="",
        expires_at=room.clock() + timedelta(seconds=DAY_S),
    )
