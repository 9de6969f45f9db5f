"""The feed is complete, in order, each thing once, on both databases, while many write."""

import asyncio
import random
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete

from app.kernel.db import Database
from app.modules.storage.domain.allowances import OWNER
from app.modules.storage.domain.bodies import Draft
from app.modules.storage.domain.changes import Change
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.cursors import CursorExpired, CursorInvalid
from app.modules.storage.models import CollectionRow, RecordRow, VectorRow
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.service.records import RecordWrite
from tests.modules.storage.desks import ANNA, BERT, Shelf, audit, sha256

WRITERS = 32
CHANGES_EACH = 4
READERS = 4
RECORDS = frozenset({"record"})
EVERYTHING = frozenset({"record", "vector"})


async def read(shelf: Shelf, cursor: str | None = None, limit: int = 7, user_id: UUID = ANNA):
    """Everything behind the cursor, and the last page's cursor."""
    found: list[Change] = []
    has_more = True
    while has_more:
        page = await shelf.storage.changes.page(user_id, cursor, limit, RECORDS)
        found += page.items
        cursor, has_more = page.cursor, page.has_more
    return found, cursor


async def write(shelf: Shelf, record_id: UUID, number: int, dice: random.Random) -> None:
    """One change whose commit comes a while after its number."""
    body = f"{record_id} {number}".encode()
    draft = Draft(uuid4(), ANNA, "record", len(body), sha256(body), body)
    wanted = Condition(is_new=True) if number == 0 else Condition(etag="*")
    async with shelf.db.begin() as session:
        account = await AccountRepository(session).lock(ANNA)
        change = RecordWrite(record_id, wanted, "notes")
        await shelf.storage.records.commit(session, account, change, draft, OWNER)
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)


async def forget(db: Database, floor_seq: int) -> None:
    """Remove tombstones up to a number, as time does."""
    async with db.begin() as session:
        account = await AccountRepository(session).lock(ANNA)
        account.floor_seq = floor_seq
        gone = delete(RecordRow).where(RecordRow.is_deleted, RecordRow.seq <= floor_seq)
        await session.execute(gone)


class TestPage:
    async def test_has_changes_in_their_order_each_record_once(self, shelf):
        one, other = uuid4(), uuid4()
        await shelf.put(one, b"1")
        await shelf.put(other, b"2")
        await shelf.put(one, b"3", Condition(etag="*"))

        found, _ = await read(shelf)

        assert [(change.id, change.seq) for change in found] == [(str(other), 2), (str(one), 3)]

    async def test_says_what_was_deleted(self, shelf):
        record_id = uuid4()
        await shelf.put(record_id, b"1")
        await shelf.delete(record_id, "*")

        (change,), _ = await read(shelf)

        assert (change.seq, change.is_deleted, change.size_bytes) == (2, True, 0)

    async def test_at_the_end_has_a_cursor_for_what_is_to_come(self, shelf):
        await shelf.put(uuid4(), b"1")
        _, cursor = await read(shelf)

        await shelf.put(uuid4(), b"2")
        found, _ = await read(shelf, cursor)

        assert [change.seq for change in found] == [2]

    async def test_of_somebody_who_has_nothing_has_a_cursor_too(self, shelf):
        found, cursor = await read(shelf)
        await shelf.put(uuid4(), b"1")

        later, _ = await read(shelf, cursor)

        assert (found, [change.seq for change in later]) == ([], [1])

    async def test_is_as_long_as_asked_and_says_whether_there_is_more(self, shelf):
        for number in range(3):
            await shelf.put(uuid4(), bytes([number]))

        first = await shelf.storage.changes.page(ANNA, None, 2, RECORDS)
        second = await shelf.storage.changes.page(ANNA, first.cursor, 1, RECORDS)

        assert (len(first.items), first.has_more) == (2, True)
        assert (len(second.items), second.has_more) == (1, False)

    async def test_shows_nothing_of_anybody_else(self, shelf):
        await shelf.put(uuid4(), b"1", user_id=BERT)

        found, _ = await read(shelf)

        assert found == []

    async def test_has_vectors_too_for_who_asks_in_one_order(self, shelf):
        record_id = uuid4()
        await shelf.put(record_id, b"1")
        await _vector(shelf.db, "item", seq=2)
        await shelf.put(uuid4(), b"3")

        pages = [await shelf.storage.changes.page(ANNA, None, 2, EVERYTHING)]
        pages.append(await shelf.storage.changes.page(ANNA, pages[0].cursor, 2, EVERYTHING))

        found = [change for page in pages for change in page.items]
        assert [(one.seq, one.kind) for one in found] == [
            (1, "record"),
            (2, "vector"),
            (3, "record"),
        ]
        assert (found[1].id, found[1].table, found[1].size_bytes) == ("item", "memories", 6)


class TestCompleteness:
    async def test_many_readers_miss_nothing_while_many_write(self, shelf):
        dice = random.Random(7)
        ids = [uuid4() for _ in range(WRITERS)]
        is_done, bells = asyncio.Event(), [asyncio.Event() for _ in range(READERS)]

        async def writer(record_id: UUID) -> None:
            for number in range(CHANGES_EACH):
                await write(shelf, record_id, number, dice)
                for bell in bells:
                    bell.set()

        async def reader(bell: asyncio.Event) -> list[Change]:
            found: list[Change] = []
            cursor, is_last = None, False
            while not is_last:
                await bell.wait()
                bell.clear()
                # Whoever looks after the last commit sees everything.
                is_last = is_done.is_set()
                more, cursor = await read(shelf, cursor)
                found += more
            return found

        readers = [asyncio.create_task(reader(bell)) for bell in bells]
        await asyncio.gather(*(writer(record_id) for record_id in ids))
        is_done.set()
        for bell in bells:
            bell.set()
        feeds = await asyncio.gather(*readers)

        total = WRITERS * CHANGES_EACH
        committed, _ = await read(shelf)
        newest = {change.id: change for change in committed}
        assert (await shelf.account()).seq == total
        for feed in feeds:
            numbers = [change.seq for change in feed]
            assert numbers == sorted(set(numbers))
            assert {change.id: change for change in feed} == newest
        assert newest.keys() == {str(record_id) for record_id in ids}
        await audit(shelf.db)

    async def test_a_refused_change_leaves_no_gap(self, shelf):
        async def refused(number: int) -> None:
            async with shelf.db.begin() as session:
                account = await AccountRepository(session).lock(ANNA)
                draft = Draft(uuid4(), ANNA, "record", 1, sha256(b"x"), b"x")
                change = RecordWrite(uuid4(), Condition(is_new=True), "notes")
                await shelf.storage.records.commit(session, account, change, draft, OWNER)
                raise ZeroDivisionError

        await asyncio.gather(
            *(refused(number) for number in range(5)),
            *(shelf.put(uuid4(), bytes([number])) for number in range(5)),
            return_exceptions=True,
        )
        found, _ = await read(shelf)

        assert [change.seq for change in found] == [1, 2, 3, 4, 5]


class TestHorizon:
    async def test_a_reader_from_before_it_is_told_to_begin_anew(self, shelf):
        record_id = uuid4()
        await shelf.put(record_id, b"1")
        _, cursor = await read(shelf)
        await shelf.delete(record_id, "*")
        await forget(shelf.db, 2)

        with pytest.raises(CursorExpired):
            await read(shelf, cursor)

    async def test_a_reader_who_knows_the_deletions_goes_on(self, shelf):
        record_id = uuid4()
        await shelf.put(record_id, b"1")
        await shelf.delete(record_id, "*")
        _, cursor = await read(shelf)
        await forget(shelf.db, 2)
        await shelf.put(uuid4(), b"3")

        found, _ = await read(shelf, cursor)

        assert [change.seq for change in found] == [3]

    async def test_a_reader_who_begins_behind_it_reads_to_the_end(self, shelf):
        ids = [uuid4() for _ in range(4)]
        for record_id in ids:
            await shelf.put(record_id, b"1")
        await shelf.delete(ids[0], "*")
        await forget(shelf.db, 5)

        found, _ = await read(shelf, limit=1)

        assert [change.id for change in found] == [str(record_id) for record_id in ids[1:]]

    async def test_a_reader_whom_it_overtakes_is_told_to_begin_anew(self, shelf):
        ids = [uuid4() for _ in range(4)]
        for record_id in ids:
            await shelf.put(record_id, b"1")
        first = await shelf.storage.changes.page(ANNA, None, 1, RECORDS)
        await shelf.delete(ids[0], "*")
        await forget(shelf.db, 5)

        with pytest.raises(CursorExpired):
            await read(shelf, first.cursor)

    async def test_a_cursor_of_somebody_else_is_none(self, shelf):
        await shelf.put(uuid4(), b"1")
        _, cursor = await read(shelf)

        with pytest.raises(CursorInvalid):
            await read(shelf, cursor, user_id=BERT)

    async def test_a_cursor_of_an_earlier_numbering_is_void(self, shelf):
        await shelf.put(uuid4(), b"1")
        _, cursor = await read(shelf)
        async with shelf.db.begin() as session:
            (await AccountRepository(session).lock(ANNA)).epoch = "another"

        with pytest.raises(CursorExpired):
            await read(shelf, cursor)


async def _vector(db: Database, item_id: str, seq: int) -> None:
    """A sealed vector, as the account's change of this number."""
    async with db.begin() as session:
        account = await AccountRepository(session).lock(ANNA)
        account.seq = seq
        collection = CollectionRow(
            user_id=ANNA, name="memories", mode="sealed", dimension=0, model="", epoch=0, beta=None
        )
        session.add(collection)
        await session.flush()
        vector = VectorRow(
            user_id=ANNA,
            collection_id=collection.id,
            item_id=item_id,
            seq=seq,
            collection_seq=1,
            rev=1,
            is_deleted=False,
            epoch=0,
            vector=b"",
            sealed=b"sealed",
            size_bytes=6,
            sha256=sha256(b"sealed"),
            tags={},
        )
        session.add(vector)
