"""One verb, one transaction, on both databases."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.kernel.db import Database, DatabaseDown, before_commit, uuid7
from app.kernel.errors import Unavailable
from app.kernel.jobs import JobBook

counters = Table(
    "counters", MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer)
)


@pytest.fixture
async def counted(db: Database) -> Database:
    async with db.begin() as session:
        await (await session.connection()).run_sync(counters.create)
        await session.execute(insert(counters).values(id=1, n=0))
    return db


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    db = Database(sqlite_url, JobBook())
    async with db.begin() as session:
        await (await session.connection()).run_sync(counters.create)
        await session.execute(insert(counters).values(id=1, n=0))
    yield db
    await db.close()


async def count(db: Database) -> int:
    async with db.read() as session:
        return (await session.scalars(select(counters.c.n))).one()


async def add_one(db: Database) -> None:
    """Read, give others a chance, and write: wrong wherever two writers overlap."""
    async with db.begin() as session:
        n = (await session.scalars(select(counters.c.n))).one()
        await asyncio.sleep(0)
        await session.execute(update(counters).values(n=n + 1))


class TestUuid7:
    def test_has_the_version_and_variant_bits(self):
        made = [uuid7() for _ in range(1000)]

        assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}

    def test_holds_the_milliseconds_of_its_making(self):
        before = time.time_ns() // 1_000_000
        made = uuid7()
        after = time.time_ns() // 1_000_000

        assert before <= made.int >> 80 <= after

    def test_sorts_by_the_moment_of_making(self, monkeypatch):
        moments = [1_700_000_000_000_000_000 + step * 250 for step in range(10_000)]
        clock = iter(moments)
        monkeypatch.setattr(time, "time_ns", lambda: next(clock))

        made = [uuid7() for _ in moments]

        assert made == sorted(made)

    def test_varies_every_random_bit(self):
        made = [uuid7().int for _ in range(200)]

        ever_set, ever_clear = 0, 0
        for value in made:
            ever_set |= value
            ever_clear |= ~value
        random_bits = (1 << 62) - 1
        assert ever_set & ever_clear & random_bits == random_bits

    def test_never_repeats(self):
        assert len({uuid7() for _ in range(10_000)}) == 10_000


class TestBegin:
    async def test_keeps_what_the_block_wrote(self, counted):
        await add_one(counted)

        assert await count(counted) == 1

    async def test_keeps_nothing_when_the_block_raises(self, counted):
        async def write_and_fail() -> None:
            async with counted.begin() as session:
                await session.execute(update(counters).values(n=7))
                raise KeyError

        with pytest.raises(KeyError):
            await write_and_fail()

        assert await count(counted) == 0

    async def test_keeps_nothing_when_the_task_is_cancelled(self, counted):
        inside = asyncio.Event()

        async def write_and_wait() -> None:
            async with counted.begin() as session:
                await session.execute(update(counters).values(n=7))
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(write_and_wait())
        await inside.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        await add_one(counted)

        assert await count(counted) == 1

    async def test_survives_writers_that_give_up_while_they_queue(self, counted):
        writers = [asyncio.create_task(add_one(counted)) for _ in range(20)]
        await asyncio.sleep(0)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        before = await count(counted)

        await add_one(counted)

        assert await count(counted) == before + 1

    async def test_lets_every_writer_of_one_row_through(self, counted):
        async def add(amount: int) -> None:
            async with counted.begin() as session:
                await session.execute(update(counters).values(n=counters.c.n + amount))

        await asyncio.gather(*(add(1) for _ in range(50)))

        assert await count(counted) == 50

    async def test_leaves_a_broken_rule_to_its_caller(self, counted):
        with pytest.raises(IntegrityError):
            async with counted.begin() as session:
                await session.execute(insert(counters).values(id=1, n=0))

    async def test_leaves_a_mistake_in_a_statement_to_its_author(self, counted):
        with pytest.raises(DBAPIError) as caught:
            async with counted.begin() as session:
                await session.execute(text("SELECT * FROM nowhere"))

        assert not isinstance(caught.value, Unavailable)

    async def test_leaves_a_value_that_fits_no_column_to_its_author(self, counted):
        with pytest.raises((DBAPIError, OverflowError)):
            async with counted.begin() as session:
                await session.execute(update(counters).values(n=2**70))

    async def test_gives_the_one_writer_of_sqlite_to_each_in_turn(self, sqlite):
        await asyncio.gather(*(add_one(sqlite) for _ in range(50)))

        assert await count(sqlite) == 50

    async def test_gives_the_one_writer_of_sqlite_to_another_process_in_turn(
        self, sqlite, sqlite_url
    ):
        other = Database(sqlite_url, JobBook())

        await asyncio.gather(*(add_one(db) for db in (sqlite, other) for _ in range(25)))

        assert await count(sqlite) == 50
        await other.close()

    async def test_writes_in_the_end_what_was_left_to_the_end(self, counted):
        async with counted.begin() as session:
            last = partial(session.execute, update(counters).values(n=counters.c.n * 10))
            before_commit(session, last)
            await session.execute(update(counters).values(n=7))

        assert await count(counted) == 70

    async def test_leaves_that_out_when_the_block_raises(self, counted):
        async def leave_and_fail() -> None:
            async with counted.begin() as session:
                before_commit(session, partial(session.execute, update(counters).values(n=7)))
                raise KeyError

        with pytest.raises(KeyError):
            await leave_and_fail()

        assert await count(counted) == 0

    async def test_finishes_a_commit_that_its_caller_does_not_wait_for(self, counted):
        async def leave() -> None:
            asyncio.current_task().cancel()

        async def write_and_leave() -> None:
            async with counted.begin() as session:
                await session.execute(update(counters).values(n=7))
                before_commit(session, leave)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(write_and_leave())

        assert await count(counted) == 7


class TestRead:
    async def test_sees_one_snapshot(self, counted):
        async with counted.read() as session:
            before = (await session.scalars(select(counters.c.n))).one()
            await add_one(counted)
            after = (await session.scalars(select(counters.c.n))).one()

        assert (before, after) == (0, 0)
        assert await count(counted) == 1

    async def test_sees_what_was_committed_before_it(self, counted):
        for expected in range(1, 6):
            await add_one(counted)

            assert await count(counted) == expected

    async def test_refuses_to_write(self, counted):
        with pytest.raises(DBAPIError) as caught:
            async with counted.read() as session:
                await session.execute(update(counters).values(n=7))

        assert not isinstance(caught.value, Unavailable)
        assert await count(counted) == 0

    async def test_leaves_the_connection_able_to_write(self, counted):
        for _ in range(20):
            await count(counted)

        await add_one(counted)

        assert await count(counted) == 1

    async def test_goes_on_beside_an_open_writer(self, counted):
        async with counted.begin() as session:
            await session.execute(update(counters).values(n=7))
            seen = await count(counted)

        assert seen == 0


class TestPing:
    async def test_answers(self, db):
        await db.ping()

    async def test_says_when_a_file_cannot_be_opened(self, tmp_path):
        db = Database(f"sqlite+insula:///{tmp_path / 'missing' / 'insula.db'}", JobBook())

        with pytest.raises(DatabaseDown):
            await db.ping()
        await db.close()

    async def test_leaves_a_damaged_file_to_its_owner(self, tmp_path):
        path = tmp_path / "insula.db"
        path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
        db = Database(f"sqlite+insula:///{path}", JobBook())

        with pytest.raises(DBAPIError) as caught:
            await db.ping()

        assert not isinstance(caught.value, Unavailable)
        await db.close()

    async def test_says_when_nobody_listens(self, tmp_path):
        db = Database(f"postgresql+asyncpg://postgres:@/any?host={tmp_path}", JobBook())

        with pytest.raises(DatabaseDown):
            await db.ping()
        await db.close()

    async def test_says_when_the_server_refuses_the_connection(self, postgres_url):
        url = postgres_url.replace("postgresql:", "postgresql+asyncpg:").replace("/test_", "/none_")
        db = Database(url, JobBook())

        with pytest.raises(DatabaseDown):
            await db.ping()
        await db.close()

    async def test_says_when_the_connection_is_cut_half_way(self, postgres_url):
        db = Database(postgres_url.replace("postgresql:", "postgresql+asyncpg:"), JobBook())

        async def cut_and_go_on() -> None:
            async with db.begin() as session:
                await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
                await session.execute(text("SELECT 1"))

        with pytest.raises(DatabaseDown):
            await cut_and_go_on()

        await db.ping()
        await db.close()
