"""The runner: leases, crowds, shutdowns and a database that goes away, on both databases."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import Column, MetaData, String, Table, insert, update

from app.adapters.queue.sql import JobRunner
from app.kernel.db import Database, DatabaseDown
from app.kernel.jobs import DEAD, READY, RUNNING, Job, JobBook, defer
from tests.kernel.diary import put_off, rows
from tests.waiting import until

orders = Table(
    "orders", MetaData(), Column("id", String, primary_key=True), Column("state", String)
)


class TestLease:
    async def test_lets_another_take_over_when_a_runner_dies(
        self, db, book, clock, open_runner, runner
    ):
        started: list[str] = []

        async def hang_once(order: str) -> None:
            started.append(order)
            if len(started) == 1:
                await asyncio.Event().wait()

        book.add(Job("test.order", hang_once, lease_s=60))
        dying = await open_runner()
        await put_off(db, "test.order", order="7")
        await until(lambda: started)
        await dying.close(drain_s=0)

        clock.advance(59)
        early = await runner.run_due()
        clock.advance(2)
        late = await runner.run_due()

        assert (early, late) == (0, 1)
        assert started == ["7", "7"]
        assert await rows(db) == []

    async def test_leaves_a_job_alone_that_takes_long(self, db, book, clock, open_runner, runner):
        may_end = asyncio.Event()
        ended: list[str] = []

        async def take_long() -> None:
            await may_end.wait()
            ended.append("once")

        book.add(Job("test.long", take_long, lease_s=0.3))
        busy = await open_runner()
        await put_off(db, "test.long")

        async def is_renewed() -> bool:
            (row,) = await rows(db)
            return row.lease_until == clock.now + timedelta(seconds=0.3)

        others = []
        for _ in range(5):
            await until(is_renewed)
            clock.advance(0.2)
            others.append(await runner.run_due())
        may_end.set()
        await until(lambda: ended)
        await busy.close()

        assert others == [0] * 5
        assert ended == ["once"]
        assert await rows(db) == []

    async def test_lets_a_late_runner_change_nothing(self, db, book, clock, open_runner, runner):
        """The first runner comes back to life after the second has begun anew."""
        may_end = asyncio.Event()
        started: list[str] = []

        async def fail_late() -> None:
            started.append("")
            number = len(started)
            await may_end.wait()
            if number == 1:
                raise LookupError("too late to matter")

        book.add(Job("test.slow", fail_late, lease_s=3600))
        first = await open_runner()
        await put_off(db, "test.slow")

        async def is_leased() -> bool:
            """For as long as the job says, and not only for as long as a claim lasts."""
            [row] = await rows(db)
            return row.lease_until == clock() + timedelta(seconds=3600)

        await until(is_leased)
        clock.advance(3601)
        second = asyncio.create_task(runner.run_due())
        await until(lambda: len(started) == 2)

        may_end.set()
        await second
        await first.close()

        assert await rows(db) == []

    async def test_buries_what_kills_its_process_each_time(self, db, book, clock, open_runner):
        started: list[str] = []

        async def hang() -> None:
            started.append("")
            await asyncio.Event().wait()

        book.add(Job("test.hang", hang, max_attempts=2))
        await put_off(db, "test.hang")
        for attempt in (1, 2):
            dying = await open_runner()
            await until(lambda expected=attempt: len(started) == expected)
            await dying.close(drain_s=0)
            clock.advance(61)
        await JobRunner(db, book, clock).run_due()

        (row,) = await rows(db)
        assert (row.state, row.error) == (DEAD, "its process died each time it ran")
        assert len(started) == 2

    async def test_delivers_twice_what_could_not_be_settled(self, db, book, runner, clock):
        """The job acts and its runner dies before it can say so: the claim makes the act one."""
        acts: list[str] = []

        async def ship(order: str) -> None:
            async with db.begin() as session:
                mine = (orders.c.id == order) & (orders.c.state == "paid")
                claim = update(orders).where(mine).values(state="shipped")
                claimed = (await session.scalars(claim.returning(orders.c.id))).one_or_none()
            if claimed is not None:
                acts.append(order)

        book.add(Job("test.ship", ship))
        async with db.begin() as session:
            await (await session.connection()).run_sync(orders.create)
            await session.execute(insert(orders).values(id="7", state="paid"))
            defer(session, "test.ship", order="7")
        await ship("7")

        ran = await runner.run_due()

        assert ran == 1
        assert acts == ["7"]


class TestRunner:
    async def test_runs_what_is_committed_while_it_is_open(self, db, diary, open_runner):
        await open_runner()

        await put_off(db, "test.write", text="now")

        assert await until(lambda: diary.entries) == [{"text": "now"}]

    async def test_finds_by_polling_what_another_process_committed(
        self, db, diary, open_runner, database_url
    ):
        await open_runner()
        elsewhere = Database(database_url, JobBook())

        await put_off(elsewhere, "test.write", text="elsewhere")

        await until(lambda: diary.entries)
        await elsewhere.close()

    async def test_runs_a_crowd_with_few_at_a_time(self, db, book, open_runner):
        now, most, done = 0, 0, []

        async def crowd(number: str) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            done.append(number)

        book.add(Job("test.crowd", crowd))
        async with db.begin() as session:
            for number in range(40):
                defer(session, "test.crowd", number=str(number))

        await open_runner()
        await until(lambda: len(done) == 40)

        assert Counter(done) == Counter(map(str, range(40)))
        assert most <= 4

    async def test_waits_for_running_jobs_when_it_closes(self, db, book, open_runner):
        may_end = asyncio.Event()
        steps: list[str] = []

        async def work() -> None:
            steps.append("begun")
            await may_end.wait()
            steps.append("done")

        book.add(Job("test.work", work))
        runner = await open_runner()
        await put_off(db, "test.work")
        await until(lambda: steps)
        closing = asyncio.create_task(runner.close(drain_s=10))

        may_end.set()
        await closing

        assert steps == ["begun", "done"]
        assert await rows(db) == []

    async def test_claims_nothing_once_it_is_closed(self, db, diary, open_runner, runner):
        closed = await open_runner()
        await closed.close()
        await put_off(db, "test.write")

        assert [row.state for row in await rows(db)] == [READY]
        assert await runner.run_due() == 1

    async def test_goes_on_when_the_database_is_back(self, db, book, diary, clock):
        flaky = FlakyDatabase(db)
        runner = JobRunner(flaky, book, clock)
        await runner.open()
        flaky.is_down = True
        await put_off(db, "test.write")
        await until(lambda: flaky.refused >= 1)

        flaky.is_down = False

        await until(lambda: diary.entries)
        await runner.close()

    async def test_leaves_a_job_to_its_lease_when_it_cannot_be_settled(
        self, db, book, clock, runner
    ):
        flaky = FlakyDatabase(db)
        done: list[str] = []

        async def outlive_the_database() -> None:
            done.append("")
            flaky.is_down = len(done) == 1

        book.add(Job("test.work", outlive_the_database))
        await put_off(db, "test.work")
        with pytest.raises(DatabaseDown):
            await JobRunner(flaky, book, clock).run_due()
        (row,) = await rows(db)

        clock.advance(61)

        assert (row.state, row.error) == (RUNNING, None)
        assert await runner.run_due() == 1
        assert await rows(db) == []


class FlakyDatabase:
    """A database that can be switched off."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.is_down = False
        self.refused = 0

    def begin(self):
        return self._guarded(self._db.begin)

    def read(self):
        return self._guarded(self._db.read)

    def _guarded(self, verb):
        if self.is_down:
            self.refused += 1
            raise DatabaseDown
        return verb()
