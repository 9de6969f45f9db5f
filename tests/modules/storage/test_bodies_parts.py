"""Parts of bodies, and reading what they make up."""

import asyncio
from contextlib import aclosing

import pytest
from sqlalchemy import delete, select, update

from app.adapters.blobs.local import LocalBlobStore
from app.modules.storage.domain.bodies import blob_key
from app.modules.storage.domain.digests import DigestMismatch, Expected
from app.modules.storage.models import BodyRow, PartRow
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.repository.bodies import BodyRepository
from app.modules.storage.service.bodies import BytesGone, Intake
from tests.fakes.failing_store import FailingStore
from tests.modules.storage.stockrooms import (
    ANNA,
    LARGE,
    SMALL,
    Stockroom,
    people,
    sent,
    sha256,
)


@pytest.fixture
async def room(db, tmp_path) -> Stockroom:
    await people(db)
    return Stockroom(db, FailingStore(LocalBlobStore(tmp_path / "blobs")))


def intake(data: bytes = LARGE, quota_bytes: int | None = None) -> Intake:
    return Intake(ANNA, "record", Expected(len(data)), quota_bytes)


async def opened(room: Stockroom, data: bytes = LARGE) -> BodyRow:
    async with room.db.begin() as session:
        account = await AccountRepository(session).lock(ANNA)
        return await room.bodies.open_body(session, account, intake(data))


async def states(room: Stockroom) -> dict[int, list[str]]:
    """Of the parts, by number, in the order in which they came."""
    async with room.db.read() as session:
        parts = await session.scalars(select(PartRow).order_by(PartRow.id))
        found: dict[int, list[str]] = {}
        for part in parts:
            found.setdefault(part.number, []).append(part.state)
        return found


class TestTakePart:
    async def test_keeps_parts_in_their_order(self, room):
        body = await opened(room)

        for number, data in ((2, LARGE[20:]), (1, LARGE[:20])):
            await room.bodies.take_part(body, number, Expected(len(data)), sent(data))

        assert await room.read(body.id) == LARGE
        assert await room.bodies.digest(body.id) == sha256(LARGE)

    async def test_replaces_a_part_that_is_sent_again(self, room):
        body = await opened(room)

        for data in (b"x" * 40, LARGE):
            await room.bodies.take_part(body, 1, Expected(40), sent(data))

        assert await states(room) == {1: ["doomed", "kept"]}
        assert await room.read(body.id) == LARGE

    async def test_keeps_the_old_part_when_the_new_one_fails(self, room):
        body = await opened(room)
        await room.bodies.take_part(body, 1, Expected(40), sent(LARGE))

        with pytest.raises(DigestMismatch):
            await room.bodies.take_part(body, 1, Expected(40, (sha256(b""),)), sent(b"x" * 40))

        assert await states(room) == {1: ["kept", "doomed"]}
        assert await room.read(body.id) == LARGE

    async def test_keeps_one_of_many_that_come_at_once(self, room):
        body = await opened(room)
        bodies = [bytes([65 + number]) * 40 for number in range(10)]

        await asyncio.gather(
            *(room.bodies.take_part(body, 1, Expected(40), sent(data)) for data in bodies)
        )

        assert sorted((await states(room))[1]) == ["doomed"] * 9 + ["kept"]
        assert await room.read(body.id) in bodies

    async def test_refuses_a_part_of_what_has_ended(self, room):
        body = await opened(room)

        async def aborted():
            yield LARGE[:20]
            async with room.db.begin() as session:
                account = await AccountRepository(session).lock(ANNA)
                await room.bodies.drop_open(session, account, body.id)
            yield LARGE[20:]

        with pytest.raises(BytesGone):
            await room.bodies.take_part(body, 1, Expected(40), aborted())

        assert await states(room) == {1: ["doomed"]}
        assert await room.blob_keys() == []

    async def test_changes_nothing_of_what_is_complete(self, room):
        body = await opened(room)
        await room.bodies.take_part(body, 1, Expected(40), sent(LARGE))

        async def completed():
            yield b"x" * 20
            async with room.db.begin() as session:
                account = await AccountRepository(session).lock(ANNA)
                await room.bodies.keep_open(session, account, body.id)
            yield b"x" * 20

        with pytest.raises(BytesGone):
            await room.bodies.take_part(body, 1, Expected(40), completed())

        assert await room.read(body.id) == LARGE

    async def test_leaves_no_blob_that_the_sweep_will_not_come_for_again(self, room):
        body = await opened(room)

        async def asleep():
            yield LARGE
            await room.sweep_late()
            async with room.db.begin() as session:
                await session.execute(delete(PartRow))

        with pytest.raises(BytesGone):
            await room.bodies.take_part(body, 1, Expected(40), asleep())

        assert await room.blob_keys() == []


class TestRead:
    @pytest.mark.parametrize("data", [SMALL, LARGE])
    async def test_reads_a_part(self, room, data):
        draft = await room.kept(data)

        for start, end in ((0, None), (0, 1), (2, 4), (3, None), (0, 99), (5, 5)):
            assert await room.read(draft.id, start, end) == data[start:end]

    async def test_reads_across_parts(self, room):
        body = await opened(room)
        for number in range(4):
            data = LARGE[number * 10 : number * 10 + 10]
            await room.bodies.take_part(body, number + 1, Expected(10), sent(data))

        assert await room.read(body.id, 5, 35) == LARGE[5:35]

    async def test_says_when_there_is_nothing_any_more(self, room):
        draft = await room.kept(LARGE)
        await room.drop(draft.id)
        await room.sweep_late()

        with pytest.raises(BytesGone):
            await room.read(draft.id)

    async def test_never_passes_less_off_as_the_whole(self, room):
        draft = await room.kept(LARGE)
        async with room.db.begin() as session:
            (part,) = await BodyRepository(session).parts(draft.id)
            longer = update(BodyRow).where(BodyRow.id == draft.id).values(size_bytes=41)
            await session.execute(longer)
            await session.execute(update(PartRow).values(size_bytes=41))

        with pytest.raises(BytesGone):
            await room.read(draft.id)
        assert await room.blob_keys() == [blob_key(ANNA, part.id)]

    async def test_lets_go_of_the_blob_when_the_reader_leaves(self, room, tmp_path):
        import psutil

        draft = await room.kept(LARGE)

        async with aclosing(room.bodies.read(draft.id)) as chunks:
            await anext(chunks)
            held = [one.path for one in psutil.Process().open_files() if "/blobs/" in one.path]
        left = [one.path for one in psutil.Process().open_files() if "/blobs/" in one.path]

        assert (len(held), left) == (1, [])
