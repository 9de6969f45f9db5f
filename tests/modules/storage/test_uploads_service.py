"""Upload sessions without HTTP, on both databases: races, ends, and crashes at every await."""

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select

from app.adapters.blobs.local import LocalBlobStore
from app.kernel.db import Database, uuid7
from app.kernel.errors import Conflict, Gone, NotFound, OutOfSpace
from app.modules.storage.domain.backups import BackupWrite
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.uploads import (
    SESSIONS_LIMIT,
    BackupTarget,
    Completion,
    RecordTarget,
    UploadOrder,
    UploadsTooMany,
)
from app.modules.storage.models import UploadRow
from app.modules.storage.service import uploads
from tests.fakes.clock import FakeClock
from tests.modules.storage.desks import ANNA, BERT, Shelf, once, open_shelf, principal, sha256
from tests.modules.storage.shipments import BODY, PART_BYTES, Sums, cut, sums_of
from tests.waiting import until

GIB = 2**30
DAY_S = 24 * 3600.0
PARTS = cut(BODY)
OTHER = PARTS[0][::-1]
# Two parts, where a test sends many.
HALF_BYTES = 2 * PART_BYTES
DONE = Completion()
NEVER = 10_000


class WatchedBlobs(LocalBlobStore):
    """Counts who reads, and lets them begin only when the test does."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.reads = 0
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def get(self, key: str, *, start: int = 0, end: int | None = None):
        self.reads += 1
        await self.may_read.wait()
        async for chunk in super().get(key, start=start, end=end):
            yield chunk


@pytest.fixture
async def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def blobs(tmp_path) -> WatchedBlobs:
    return WatchedBlobs(tmp_path / "blobs")


@pytest.fixture
async def shelf(db, tmp_path, clock, blobs) -> AsyncIterator[Shelf]:
    """Storage alone, on both databases, for members of the tier `pro`."""
    async with open_shelf(db, tmp_path, tier="pro", clock=clock, blobs=blobs) as found:
        yield found


def backup(version: int = 1, size_bytes: int = len(BODY), part_bytes: int = PART_BYTES):
    return UploadOrder(BackupTarget(BackupWrite(version, 1000)), size_bytes, part_bytes)


def record():
    target = RecordTarget(uuid4(), "notes", None, Condition(is_new=True))
    return UploadOrder(target, len(BODY), PART_BYTES)


async def begun(shelf, order):
    return (await shelf.storage.uploads.create(principal(), order)).id


async def repeat(db: Database, times: int) -> None:
    """Write the only session so often again."""
    async with db.begin() as session:
        [row] = (await session.execute(select(UploadRow.__table__))).mappings()
        rows = [{**row, "id": uuid7()} for _ in range(times)]
        await session.execute(insert(UploadRow), rows)


async def put_part(shelf, upload_id, number, data):
    expected = Expected(len(data))
    return await shelf.storage.uploads.put_part(ANNA, upload_id, number, expected, once(data))


async def sent(shelf, order):
    upload_id = await begun(shelf, order)
    for number, data in enumerate(cut(BODY, order.part_bytes), 1):
        await put_part(shelf, upload_id, number, data)
    return upload_id


async def halves(shelf, version):
    return await sent(shelf, backup(version, part_bytes=HALF_BYTES))


async def complete(shelf, upload_id):
    return await shelf.storage.uploads.complete(principal(), upload_id, DONE)


async def read(shelf, backup) -> bytes:
    return b"".join(
        [chunk async for chunk in shelf.storage.backups.read(backup, 0, backup.size_bytes)]
    )


class TestCreate:
    async def test_of_twenty_at_once_exactly_those_that_fit_succeed(self, shelf):
        orders = [backup(number, GIB // 2, GIB // 2) for number in range(1, 21)]

        found = await asyncio.gather(
            *(begun(shelf, order) for order in orders), return_exceptions=True
        )

        refused = [one for one in found if isinstance(one, OutOfSpace)]
        assert len(refused) == 10
        assert await sums_of(shelf.db, ANNA) == Sums(backups_reserved=5 * GIB)

    async def test_a_user_has_so_many_open_sessions_and_no_more(self, shelf):
        await begun(shelf, backup(1, 1))
        await repeat(shelf.db, SESSIONS_LIMIT - 2)
        await begun(shelf, backup(2, 1))

        with pytest.raises(UploadsTooMany):
            await begun(shelf, backup(3, 1))


class TestPutPart:
    async def test_of_two_at_once_one_is_there(self, shelf):
        upload_id = await begun(shelf, backup())

        await asyncio.gather(
            put_part(shelf, upload_id, 1, PARTS[0]), put_part(shelf, upload_id, 1, OTHER)
        )

        [part] = (await shelf.storage.uploads.get(ANNA, upload_id)).parts
        assert part.sha256 in {sha256(PARTS[0]), sha256(OTHER)}

    async def test_that_comes_after_the_commit_changes_nothing(self, shelf):
        upload_id = await sent(shelf, backup())
        is_half, may_go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield OTHER[:1]
            is_half.set()
            await may_go_on.wait()
            yield OTHER[1:]

        late = asyncio.create_task(
            shelf.storage.uploads.put_part(ANNA, upload_id, 1, Expected(PART_BYTES), slow())
        )
        await is_half.wait()
        made = await complete(shelf, upload_id)
        may_go_on.set()
        [refused] = await asyncio.gather(late, return_exceptions=True)

        assert isinstance(refused, Exception)
        assert await read(shelf, made) == BODY


class TestComplete:
    async def test_of_many_at_once_has_one_result_and_reads_once(self, shelf, blobs):
        upload_id = await sent(shelf, record())

        found = await asyncio.gather(*(complete(shelf, upload_id) for _ in range(5)))

        assert len({(one.etag, one.seq, one.rev) for one in found}) == 1
        assert sorted(one.is_again for one in found) == [False, True, True, True, True]
        assert blobs.reads == len(PARTS)
        assert await sums_of(shelf.db, ANNA) == Sums(records=len(BODY))

    async def test_tried_again_does_not_read_again(self, shelf, blobs):
        upload_id = await sent(shelf, backup(1))
        shelf.tiers.tier = "free"
        with suppress(Exception):
            await complete(shelf, upload_id)
        shelf.tiers.tier = "pro"
        with pytest.raises(Exception, match="another one"):
            await shelf.storage.uploads.complete(principal(), upload_id, Completion("0" * 64))

        await complete(shelf, upload_id)

        assert blobs.reads == len(PARTS)

    async def test_does_not_read_a_single_part(self, shelf, blobs):
        upload_id = await begun(shelf, backup(1, PART_BYTES))
        await put_part(shelf, upload_id, 1, PARTS[0])

        made = await complete(shelf, upload_id)

        assert made.sha256 == sha256(PARTS[0])
        assert blobs.reads == 0

    async def test_sees_that_a_part_was_sent_again_meanwhile(self, shelf, blobs):
        upload_id = await sent(shelf, backup())
        blobs.may_read.clear()
        completing = asyncio.create_task(complete(shelf, upload_id))
        await until(lambda: blobs.reads)
        await put_part(shelf, upload_id, 3, PARTS[2][::-1])
        blobs.may_read.set()

        with pytest.raises(Conflict, match="sent again meanwhile"):
            await completing

        made = await complete(shelf, upload_id)
        assert await read(shelf, made) == BODY[: 2 * PART_BYTES] + PARTS[2][::-1]
        assert made.sha256 == sha256(await read(shelf, made))

    async def test_comes_too_late_for_a_session_that_is_aborted_meanwhile(self, shelf, blobs):
        upload_id = await sent(shelf, backup())
        blobs.may_read.clear()
        completing = asyncio.create_task(complete(shelf, upload_id))
        await until(lambda: blobs.reads)
        await shelf.storage.uploads.abort(ANNA, upload_id)
        blobs.may_read.set()

        with pytest.raises(Gone):
            await completing

        assert await sums_of(shelf.db, ANNA) == Sums()

    async def test_of_somebody_elses_is_refused(self, shelf):
        upload_id = await sent(shelf, backup())

        with pytest.raises(NotFound):
            await shelf.storage.uploads.complete(principal(BERT), upload_id, DONE)


class TestExpire:
    async def test_gives_the_room_of_an_old_session_back(self, shelf, clock):
        upload_id = await sent(shelf, backup())
        clock.advance(DAY_S)

        await shelf.storage.uploads.expire()

        assert await sums_of(shelf.db, ANNA) == Sums()
        with pytest.raises(Gone):
            await put_part(shelf, upload_id, 1, PARTS[0])

    async def test_leaves_a_young_session(self, shelf, clock):
        upload_id = await sent(shelf, backup())
        clock.advance(DAY_S - 1)

        await shelf.storage.uploads.expire()

        assert (await complete(shelf, upload_id)).size_bytes == len(BODY)

    async def test_leaves_what_has_become_something(self, shelf, clock):
        upload_id = await sent(shelf, backup())
        made = await complete(shelf, upload_id)
        clock.advance(DAY_S)

        await shelf.storage.uploads.expire()

        assert await read(shelf, made) == BODY
        assert (await complete(shelf, upload_id)).is_again

    async def test_an_old_session_takes_nothing_before_it_is_ended(self, shelf, clock):
        upload_id = await sent(shelf, backup())
        clock.advance(DAY_S)

        for verb in (
            complete(shelf, upload_id),
            put_part(shelf, upload_id, 1, PARTS[0]),
            shelf.storage.uploads.get(ANNA, upload_id),
            shelf.storage.uploads.abort(ANNA, upload_id),
        ):
            with pytest.raises(Gone):
                await verb

    async def test_ends_more_than_a_batch(self, shelf, clock, monkeypatch):
        monkeypatch.setattr(uploads, "EXPIRED_A_BATCH", 2)
        for number in range(5):
            await begun(shelf, backup(number + 1, 10))
        clock.advance(DAY_S)

        await shelf.storage.uploads.expire()

        assert await sums_of(shelf.db, ANNA) == Sums()

    async def test_forgets_a_session_that_ended_long_ago(self, shelf, clock):
        upload_id = await sent(shelf, backup())
        await complete(shelf, upload_id)
        clock.advance(DAY_S + uploads.REMEMBERED_S + 1)

        await shelf.storage.uploads.expire()

        with pytest.raises(NotFound):
            await complete(shelf, upload_id)


class CutShort:
    """Does a verb up to the n-th time that it waits, where its task is cancelled."""

    def __init__(self, verb: Any, point: int) -> None:
        self._verb = verb
        self._point = point

    def __await__(self) -> Generator[Any, None, Any]:
        steps, waits = self._verb.__await__(), 0
        thrown: BaseException | None = None
        while True:
            try:
                waited = next(steps) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                return end.value
            if waits == self._point:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            waits, thrown = waits + 1, None
            try:
                yield waited
            except BaseException as error:  # noqa: BLE001 - it is the verb's
                thrown = error


async def cut_short(verb: Any, point: int) -> bool:
    """Whether it was cancelled, and did not end before."""

    async def run() -> Any:
        return await CutShort(verb, point)

    [found] = await asyncio.gather(asyncio.create_task(run()), return_exceptions=True)
    if isinstance(found, Exception):
        raise found
    return isinstance(found, asyncio.CancelledError)


async def settled(shelf, *allowed: Sums) -> Sums:
    """The sums, once what goes on behind a cancelled verb has ended."""

    async def are_exact() -> Sums | None:
        sums = await sums_of(shelf.db, ANNA)
        return sums if sums in allowed else None

    return await until(are_exact)


@pytest.mark.slow
class TestCancelled:
    """At every await of every verb: the sums stay exact, and the verb can be tried again."""

    async def test_create(self, shelf):
        point = 0
        while await cut_short(shelf.storage.uploads.create(principal(), backup()), point):
            point += 1
            await sums_of(shelf.db, ANNA)

        assert point >= 1
        upload_id = await sent(shelf, backup())
        assert await read(shelf, await complete(shelf, upload_id)) == BODY

    async def test_put_part(self, shelf):
        upload_id = await begun(shelf, backup())
        reserved = Sums(backups_reserved=len(BODY))
        for point in range(NEVER):
            verb = put_part(shelf, upload_id, 1, PARTS[0])
            is_cancelled = await cut_short(verb, point)
            assert await settled(shelf, reserved) == reserved
            parts = (await shelf.storage.uploads.get(ANNA, upload_id)).parts
            assert {part.sha256 for part in parts} <= {sha256(PARTS[0])}
            if not is_cancelled:
                break

        assert point >= 5
        for number, data in enumerate(PARTS[1:], 2):
            await put_part(shelf, upload_id, number, data)
        assert await read(shelf, await complete(shelf, upload_id)) == BODY

    async def test_complete(self, shelf):
        upload_id, version = await halves(shelf, 1), 1
        total = len(BODY)
        for point in range(NEVER):
            is_cancelled = await cut_short(complete(shelf, upload_id), point)
            kept = Sums(backups=version * total)
            still_open = Sums(backups=(version - 1) * total, backups_reserved=total)
            await settled(shelf, kept, still_open)
            made = await complete(shelf, upload_id)
            assert await sums_of(shelf.db, ANNA) == kept
            assert await read(shelf, made) == BODY
            if not is_cancelled:
                break
            version += 1
            upload_id = await halves(shelf, version)

        assert point >= 5

    async def test_abort(self, shelf):
        version = 1
        upload_id = await halves(shelf, version)
        for point in range(NEVER):
            is_cancelled = await cut_short(shelf.storage.uploads.abort(ANNA, upload_id), point)
            await settled(shelf, Sums(), Sums(backups_reserved=len(BODY)))
            with suppress(Gone):
                await shelf.storage.uploads.abort(ANNA, upload_id)
            assert await sums_of(shelf.db, ANNA) == Sums()
            if not is_cancelled:
                break
            version += 1
            upload_id = await halves(shelf, version)

        assert point >= 1

    async def test_put_of_a_backup(self, shelf):
        for point in range(NEVER):
            write = BackupWrite(point + 1, 1000)
            backups = shelf.storage.backups
            verb = backups.put(principal(), write, Expected(len(BODY)), once(*PARTS))
            if not await cut_short(verb, point):
                break
            there = await backups.history(ANNA, None, NEVER)
            sums = await settled(shelf, Sums(backups=len(there) * len(BODY)))
            assert sums.backups == len(there) * len(BODY)

        assert point >= 5
        assert await read(shelf, await shelf.storage.backups.latest(ANNA)) == BODY
