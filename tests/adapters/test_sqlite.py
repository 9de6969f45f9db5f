import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.adapters.sqlite import Link
from app.kernel.db import Database, DatabaseDown
from app.kernel.jobs import JobBook
from tests.waiting import until

ROWS = 300
# Some 500 000 steps of SQLite's machine: far beyond what may run on the loop.
LONG = "SELECT count(*), thread() FROM numbers a, numbers b WHERE a.n < :most"


@pytest.fixture
async def engine(tmp_path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(
        f"sqlite+insula:///{tmp_path / 'one.db'}",
        connect_args={"timeout": 0.2, "isolation_level": None},
    )
    yield engine
    await engine.dispose()


@pytest.fixture
async def connection(engine) -> AsyncIterator[AsyncConnection]:
    """A connection to a table of numbers, with a function that tells its caller's thread."""
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        raw.create_function("thread", 0, threading.get_ident)
        await connection.execute(text("PRAGMA journal_mode=WAL"))
        await connection.execute(text("CREATE TABLE numbers (n INTEGER, thread INTEGER)"))
        rows = [{"n": n} for n in range(ROWS)]
        await connection.execute(text("INSERT INTO numbers (n) VALUES (:n)"), rows)
        await connection.commit()
        yield connection


async def ask(connection: AsyncConnection, most: int) -> tuple[int, int]:
    count, thread = (await connection.execute(text(LONG), {"most": most})).one()
    return count, thread


class Ticks:
    """Counts how often the event loop comes round."""

    def __init__(self) -> None:
        self.seen = 0
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.seen += 1

    def stop(self) -> int:
        self._task.cancel()
        return self.seen


class TestStatement:
    async def test_runs_where_it_is_called_while_it_is_short(self, connection):
        _, thread = await ask(connection, 0)

        assert thread == threading.get_ident()

    async def test_runs_aside_when_it_is_long_and_tells_the_same(self, connection):
        count, thread = await ask(connection, ROWS)

        assert count == ROWS * ROWS
        assert thread != threading.get_ident()

    async def test_comes_back_when_it_has_become_short(self, connection):
        await ask(connection, ROWS)

        threads = [(await ask(connection, 0))[1] for _ in range(5)]

        assert threads[0] != threading.get_ident()
        assert threads[-1] == threading.get_ident()

    async def test_leaves_the_writes_before_it_in_their_transaction(self, connection):
        await connection.exec_driver_sql("BEGIN")
        await connection.execute(text("UPDATE numbers SET n = n + 1"))
        await ask(connection, ROWS)
        await connection.commit()

        first = await connection.execute(text("SELECT min(n) FROM numbers"))
        assert first.scalar_one() == 1

    async def test_of_many_rows_is_written_aside(self, connection):
        rows = [{"n": -n} for n in range(500)]

        await connection.execute(text("INSERT INTO numbers VALUES (:n, thread())"), rows)

        found = await connection.execute(text("SELECT DISTINCT thread FROM numbers WHERE n <= 0"))
        assert threading.get_ident() not in set(found.scalars())

    async def test_is_stopped_with_the_task_that_asked(self, connection):
        endless = text("SELECT count(*) FROM numbers a, numbers b, numbers c, numbers d")
        asking = asyncio.create_task(connection.execute(endless))
        ticks = Ticks()
        await until(lambda: ticks.seen > 5)
        ticks.stop()

        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asking, 5)

    async def test_is_waited_for_by_whoever_is_told_twice_to_stop(self, engine, connection):
        done: list[bool] = []

        def hold(_: int) -> int:
            # It cannot be interrupted in the middle of this.
            time.sleep(0.02)
            done.append(True)
            return 1

        raw = await connection.get_raw_connection()
        raw.create_function("hold", 1, hold)
        rows = [{"n": n} for n in range(60)]
        slow = text("INSERT INTO numbers (n) VALUES (hold(:n))")
        asking = asyncio.create_task(connection.execute(slow, rows))
        ticks = Ticks()
        await until(lambda: ticks.seen > 5)
        ticks.stop()

        asking.cancel()
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        assert done


class TestLock:
    async def test_of_another_process_is_waited_for_on_the_loop(self, engine, connection, tmp_path):
        other = sqlite3.connect(tmp_path / "one.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(connection.exec_driver_sql("BEGIN IMMEDIATE"))
        ticks = Ticks()
        await until(lambda: ticks.seen > 5)
        was_waiting = not waiting.done()

        other.rollback()

        await waiting
        assert was_waiting
        ticks.stop()
        other.close()

    async def test_is_given_up_after_the_time_out(self, connection, tmp_path):
        other = sqlite3.connect(tmp_path / "one.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(OperationalError, match="locked"):
            await connection.exec_driver_sql("BEGIN IMMEDIATE")

        other.close()

    async def test_is_let_go_with_a_connection_whose_statement_is_still_held(self, tmp_path):
        link = Link(str(tmp_path / "one.db"), isolation_level=None)
        link.raw.execute("CREATE TABLE numbers (n INTEGER)")
        link.raw.execute("BEGIN IMMEDIATE")
        held = link.raw.execute("INSERT INTO numbers VALUES (1), (2) RETURNING n")

        link.close()

        other = sqlite3.connect(tmp_path / "one.db", isolation_level=None, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        assert other.in_transaction
        other.close()
        del held


class TestLog:
    async def test_is_copied_into_the_database_when_it_is_long(self, engine, connection, tmp_path):
        blob = text("INSERT INTO numbers VALUES (zeroblob(100000), 0)")

        for _ in range(128):
            await connection.execute(blob)
            await connection.exec_driver_sql("BEGIN")
            await connection.execute(blob)
            await connection.commit()

        await until(lambda: (tmp_path / "one.db").stat().st_size > 4_000_000)

        assert (tmp_path / "one.db").stat().st_size > 4_000_000

    async def test_begins_anew_under_constant_load(self, connection, tmp_path):
        blob = text("INSERT INTO numbers VALUES (zeroblob(20000), 0)")

        for _ in range(4000):
            await connection.exec_driver_sql("BEGIN")
            await connection.execute(blob)
            await connection.commit()

        assert (tmp_path / "one.db-wal").stat().st_size < 40_000_000


class TestDurable:
    @pytest.fixture
    async def db(self, tmp_path) -> AsyncIterator[Database]:
        db = Database(f"sqlite+insula:///{tmp_path / 'one.db'}", JobBook())
        async with db.begin() as session:
            await session.execute(text("CREATE TABLE numbers (n INTEGER)"))
        yield db
        await db.close()

    async def add(self, db: Database, number: int) -> None:
        async with db.begin(is_durable=True) as session:
            await session.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number})

    async def test_ends_when_its_log_is_on_the_disk(self, db, tmp_path, monkeypatch):
        flushed: list[str] = []
        fsync = os.fsync

        def note(descriptor: int) -> None:
            flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", note)

        await self.add(db, 1)

        assert flushed == [str(tmp_path / "one.db-wal")]

    async def test_shares_a_flush_with_all_who_wait(self, db, monkeypatch):
        flushes: list[int] = []
        fsync = os.fsync

        def slow(descriptor: int) -> None:
            flushes.append(descriptor)
            time.sleep(0.01)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", slow)

        await asyncio.gather(*(self.add(db, number) for number in range(50)))

        assert 1 < len(flushes) < 25

    async def test_fails_when_the_disk_does(self, db, monkeypatch):
        def broken(descriptor: int) -> None:
            raise OSError(5, "no disk")

        monkeypatch.setattr(os, "fsync", broken)

        with pytest.raises(DatabaseDown):
            await self.add(db, 1)

    async def test_is_not_fooled_by_a_flush_that_began_before(self, db, monkeypatch):
        began, go = threading.Event(), threading.Event()
        flushes: list[int] = []
        fsync = os.fsync

        def held(descriptor: int) -> None:
            flushes.append(descriptor)
            began.set()
            go.wait(10)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", held)
        first = asyncio.create_task(self.add(db, 1))
        await until(began.is_set)
        second = asyncio.create_task(self.add(db, 2))
        go.set()

        await asyncio.gather(first, second)

        assert len(flushes) == 2
