"""Bytes come in, are kept, given out and let go; whatever happens, they are counted once."""

import asyncio
from contextlib import aclosing

import pytest
from sqlalchemy import delete, select

from app.adapters.blobs.local import LocalBlobStore
from app.kernel.errors import Unavailable
from app.modules.auth.models import UserRow
from app.modules.storage.domain.allowances import ObjectTooLarge, QuotaExceeded
from app.modules.storage.domain.digests import BodyTruncated, DigestMismatch, Expected
from app.modules.storage.models import BodyRow, PartRow
from app.modules.storage.service.bodies import IDLE_S, LONGEST_S, BytesGone, Intake
from app.modules.storage.service.pulse import BEAT_S
from tests.fakes.failing_store import FailingStore
from tests.modules.storage.stockrooms import (
    ANNA,
    LARGE,
    MOST_BYTES,
    SMALL,
    Stock,
    Stockroom,
    broken_off,
    people,
    sent,
    sha256,
)
from tests.waiting import until

NOTHING = (0, 0)


@pytest.fixture
async def room(db, tmp_path) -> Stockroom:
    await people(db)
    return Stockroom(db, FailingStore(LocalBlobStore(tmp_path / "blobs")))


def sums(stock: Stock) -> tuple[int, int]:
    return stock.kept_bytes, stock.reserved_bytes


def intake(data: bytes = LARGE, quota_bytes: int | None = None) -> Intake:
    return Intake(ANNA, "record", Expected(len(data)), quota_bytes)


def hurry(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Let the loop's clock be so much later than it is."""
    real = loop.time
    loop.time = lambda: real() + seconds


class TestTakeIn:
    async def test_holds_a_small_body_itself(self, room):
        draft = await room.take_in(SMALL)

        assert (draft.inline, draft.sha256) == (SMALL, sha256(SMALL))
        assert (await room.stock()).states == {}

    async def test_reserves_the_room_of_a_large_one(self, room):
        draft = await room.take_in(LARGE)

        assert (draft.inline, draft.sha256) == (None, sha256(LARGE))
        assert sums(await room.stock()) == (0, len(LARGE))

    async def test_accepts_a_digest_that_is_right(self, room):
        for data in (SMALL, LARGE):
            assert await room.take_in(data, sha256(data))

    async def test_leaves_nothing_of_a_body_whose_digest_is_wrong(self, room):
        for data in (SMALL, LARGE):
            with pytest.raises(DigestMismatch):
                await room.take_in(data, sha256(b"other"))

        stock = await room.stock()
        assert (sums(stock), stock.blob_bytes) == (NOTHING, 0)

    async def test_leaves_nothing_of_a_body_that_ends_too_early(self, room):
        for data in (SMALL, LARGE):
            with pytest.raises(BodyTruncated):
                await room.bodies.take_in(intake(data), sent(data[:-1]))

        stock = await room.stock()
        assert (sums(stock), stock.blob_bytes) == (NOTHING, 0)

    async def test_stops_at_the_first_byte_too_many(self, room):
        for data in (SMALL, LARGE):
            with pytest.raises(BodyTruncated):
                await room.bodies.take_in(intake(data), sent(data + b"x" * 1000, len(data) + 1))

        stock = await room.stock()
        assert (sums(stock), stock.blob_bytes) == (NOTHING, 0)

    async def test_leaves_nothing_when_the_sender_breaks_off(self, room):
        with pytest.raises(ConnectionResetError):
            await room.bodies.take_in(intake(), broken_off(LARGE[:20]))

        stock = await room.stock()
        assert (sums(stock), stock.blob_bytes) == (NOTHING, 0)

    async def test_leaves_nothing_when_it_is_cancelled(self, room):
        half = asyncio.Event()

        async def stalled():
            yield LARGE[:20]
            half.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(room.bodies.take_in(intake(), stalled()))
        await half.wait()
        task.cancel()
        await asyncio.wait([task])

        stock = await room.stock()
        assert task.cancelled()
        assert (sums(stock), stock.blob_bytes) == (NOTHING, 0)

    async def test_is_exact_wherever_it_is_cancelled(self, room):
        async def in_turns():
            for start in range(0, len(LARGE), 10):
                await asyncio.sleep(0)
                yield LARGE[start : start + 10]

        async def whole() -> None:
            draft = await room.bodies.take_in(intake(), in_turns())
            await room.bodies.discard(draft)

        for turns in range(40):
            task = asyncio.create_task(whole())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await room.sweep_late()

        assert await room.stock() == Stock(0, 0, 0, 0, {})

    async def test_refuses_what_does_not_fit(self, room):
        await room.kept(LARGE)

        with pytest.raises(QuotaExceeded) as refused:
            await room.take_in(LARGE, quota_bytes=79)

        assert refused.value.extra == {
            "used_bytes": 40,
            "reserved_bytes": 0,
            "quota_bytes": 79,
            "needed_bytes": 40,
        }
        assert sums(await room.stock()) == (40, 0)

    async def test_admits_exactly_as_many_at_once_as_fit(self, room):
        takes = [room.take_in(LARGE, quota_bytes=10 * len(LARGE)) for _ in range(20)]

        done = await asyncio.gather(*takes, return_exceptions=True)

        refused = [one for one in done if isinstance(one, QuotaExceeded)]
        assert len(refused) == 10
        assert sums(await room.stock()) == (0, 400)

    async def test_refuses_what_is_larger_than_any(self, room):
        with pytest.raises(ObjectTooLarge):
            await room.bodies.take_in(
                Intake(ANNA, "record", Expected(MOST_BYTES + 1), None), sent(b"")
            )

    @pytest.mark.parametrize("data", [SMALL, LARGE])
    async def test_gives_up_on_a_sender_that_has_fallen_silent(self, room, data):
        silent = asyncio.Event()

        async def stalled():
            yield data[:1]
            silent.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(room.bodies.take_in(intake(data), stalled()))
        await silent.wait()
        hurry(asyncio.get_running_loop(), IDLE_S + 1)
        await until(task.done)

        assert isinstance(task.exception(), BodyTruncated)
        assert sums(await room.stock()) == NOTHING

    async def test_gives_up_on_a_sender_that_never_ends(self, room):
        loop = asyncio.get_running_loop()

        async def trickling():
            for byte in LARGE:
                hurry(loop, LONGEST_S / 10)
                await asyncio.sleep(0)
                yield bytes([byte])

        with pytest.raises(BodyTruncated):
            await room.bodies.take_in(intake(), trickling())

    async def test_says_while_it_goes_on_that_its_process_lives(self, room):
        room.clock.advance(1000)
        told_at = room.clock()

        async def is_told() -> bool:
            async with room.db.read() as session:
                part = await session.scalar(select(PartRow.updated_at))
                body = await session.scalar(select(BodyRow.updated_at))
            return part == body == told_at

        async def slow():
            for byte in LARGE[:10]:
                hurry(asyncio.get_running_loop(), BEAT_S / 9)
                yield bytes([byte])
            await until(is_told)
            yield LARGE[10:]

        draft = await room.bodies.take_in(intake(), slow())

        assert draft.sha256 == sha256(LARGE)

    async def test_says_when_its_bytes_were_swept_away_meanwhile(self, room):
        async def interrupted():
            yield LARGE[:20]
            await room.sweep_late()
            yield LARGE[20:]

        with pytest.raises(BytesGone):
            await room.bodies.take_in(intake(), interrupted())

        await room.sweep.run()
        assert await room.stock() == Stock(0, 0, 0, 0, {})

    @pytest.mark.parametrize("error", [OSError("broken"), Unavailable("away")])
    async def test_leaves_nothing_when_the_store_fails_half_way(self, room, error):
        room.blobs.error = error

        with pytest.raises(type(error)):
            await room.take_in(LARGE)

        room.blobs.error = None
        assert sums(await room.stock()) == NOTHING
        assert (await room.kept(LARGE)).sha256 == sha256(LARGE)

    async def test_outlives_the_end_of_its_user(self, room):
        async def orphaned():
            yield LARGE[:20]
            async with room.db.begin() as session:
                await session.execute(delete(UserRow).where(UserRow.id == ANNA))
            raise ConnectionResetError("the sender is gone")

        with pytest.raises(ConnectionResetError):
            await room.bodies.take_in(intake(), orphaned())

        await room.sweep_late()
        assert await room.stock() == Stock(0, 0, 0, 0, {})


class TestKeep:
    async def test_turns_reserved_bytes_into_used_ones(self, room):
        for data in (SMALL, LARGE):
            await room.kept(data)

        assert sums(await room.stock()) == (len(SMALL) + len(LARGE), 0)

    async def test_refuses_a_small_body_that_does_not_fit(self, room):
        draft = await room.take_in(SMALL)

        with pytest.raises(QuotaExceeded):
            await room.keep(draft, quota_bytes=4)

        assert sums(await room.stock()) == NOTHING

    async def test_keeps_nothing_that_was_swept_away(self, room):
        draft = await room.take_in(LARGE)
        await room.sweep_late()

        with pytest.raises(BytesGone):
            await room.keep(draft)

        assert await room.stock() == Stock(0, 0, 0, 0, {})

    async def test_keeps_a_body_once(self, room):
        draft = await room.kept(LARGE)

        with pytest.raises(BytesGone):
            await room.keep(draft)

        assert sums(await room.stock()) == (len(LARGE), 0)


class TestDiscard:
    async def test_gives_the_room_back(self, room):
        for data in (SMALL, LARGE):
            await room.bodies.discard(await room.take_in(data))

        assert sums(await room.stock()) == NOTHING

    async def test_leaves_what_is_kept(self, room):
        draft = await room.kept(LARGE)

        await room.bodies.discard(draft)

        assert sums(await room.stock()) == (len(LARGE), 0)
        assert await room.read(draft.id) == LARGE

    async def test_gives_room_back_once(self, room):
        draft = await room.take_in(LARGE)

        await asyncio.gather(*(room.bodies.discard(draft) for _ in range(5)))

        assert sums(await room.stock()) == NOTHING


class TestDrop:
    async def test_gives_the_room_back_at_once(self, room):
        for data in (SMALL, LARGE):
            await room.drop((await room.kept(data)).id)

        assert sums(await room.stock()) == NOTHING

    async def test_gives_room_back_once(self, room):
        draft = await room.kept(LARGE)

        await asyncio.gather(*(room.drop(draft.id) for _ in range(5)))

        assert sums(await room.stock()) == NOTHING

    async def test_lets_whoever_reads_it_finish(self, room):
        draft = await room.kept(LARGE)

        async with aclosing(room.bodies.read(draft.id)) as chunks:
            first = await anext(chunks)
            await room.drop(draft.id)
            rest = [chunk async for chunk in chunks]

        assert first + b"".join(rest) == LARGE
