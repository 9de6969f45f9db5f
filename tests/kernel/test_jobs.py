"""Work that outlives a request, on both databases."""

import asyncio
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, String, Table, insert, select, update

from app.adapters.queue.sql import CATCH_UP_S, JobRunner, back_off
from app.kernel.db import Database, DatabaseDown
from app.kernel.jobs import DEAD, READY, RUNNING, Job, JobBook, JobRow, ScheduleRow, defer, emit
from tests.fakes.clock import START, FakeClock
from tests.waiting import until

ROOT = Path(__file__).parents[2]
ANSWER_WITHIN_S = 30

orders = Table(
    "orders", MetaData(), Column("id", String, primary_key=True), Column("state", String)
)


class Diary:
    """A job that writes down what it was given, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.entries: list[dict[str, str]] = []
        self._failures = failures

    async def run(self, **args: str) -> None:
        self.entries.append(args)
        if len(self.entries) <= self._failures:
            raise LookupError(f"attempt {len(self.entries)} failed")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def diary(book: JobBook) -> Diary:
    diary = Diary()
    book.add(Job("test.write", diary.run))
    return diary


@pytest.fixture
def runner(db: Database, book: JobBook, clock: FakeClock) -> JobRunner:
    return JobRunner(db, book, clock)


@pytest.fixture
async def open_runner(
    db: Database, book: JobBook, clock: FakeClock
) -> AsyncIterator[Callable[[], JobRunner]]:
    """Open runners, each one that another process might be, and close those still open."""
    opened: list[JobRunner] = []

    async def make() -> JobRunner:
        runner = JobRunner(db, book, clock)
        opened.append(runner)
        await runner.open()
        return runner

    yield make
    for runner in opened:
        await runner.close(drain_s=0)


async def put_off(db: Database, job: str, **args: str) -> None:
    async with db.begin() as session:
        defer(session, job, **args)


async def rows(db: Database) -> list[JobRow]:
    async with db.read() as session:
        return list(await session.scalars(select(JobRow)))


async def next_at(db: Database) -> datetime:
    async with db.read() as session:
        return (await session.scalars(select(ScheduleRow.next_at))).one()


class TestDefer:
    async def test_hands_the_job_its_arguments(self, db, runner, diary):
        await put_off(db, "test.write", text="é\n", other="2")

        assert await runner.run_due() == 1
        assert diary.entries == [{"text": "é\n", "other": "2"}]

    async def test_leaves_no_row_of_a_finished_job(self, db, runner, diary):
        await put_off(db, "test.write")

        await runner.run_due()

        assert await rows(db) == []

    async def test_shows_the_job_to_nobody_before_the_commit(self, db, runner, diary):
        async with db.begin() as session:
            defer(session, "test.write")
            await session.flush()
            seen = await rows(db)

        assert seen == []
        assert await runner.run_due() == 1

    async def test_wakes_the_runner_when_the_transaction_is_over(self, db, book):
        seen: list[str] = []
        book.wake = lambda: seen.append("woken")

        async with db.begin() as session:
            defer(session, "test.write")
            await session.flush()
            seen.append("flushed")
        async with db.begin():
            seen.append("nothing deferred")

        assert seen == ["flushed", "woken", "nothing deferred"]

    async def test_forgets_the_job_when_the_transaction_fails(self, db, runner, diary):
        async def write_and_fail() -> None:
            async with db.begin() as session:
                defer(session, "test.write")
                raise KeyError

        with pytest.raises(KeyError):
            await write_and_fail()

        assert await runner.run_due() == 0
        assert diary.entries == []

    async def test_waits_until_the_job_is_due(self, db, runner, diary, clock):
        async with db.begin() as session:
            defer(session, "test.write", due_at=clock.now + timedelta(seconds=10))
        clock.advance(9)
        early = await runner.run_due()

        clock.advance(1)

        assert (early, await runner.run_due()) == (0, 1)

    async def test_runs_what_is_due_first_first(self, db, runner, diary, clock):
        for second in (3, 1, 2):
            async with db.begin() as session:
                due_at = clock.now + timedelta(seconds=second)
                defer(session, "test.write", due_at=due_at, second=str(second))
        clock.advance(5)

        await runner.run_due()

        assert diary.entries == [{"second": "1"}, {"second": "2"}, {"second": "3"}]

    async def test_takes_arguments_called_like_its_own(self, db, runner, diary):
        await put_off(db, "test.write", event="e", name="n")

        await runner.run_due()

        assert diary.entries == [{"event": "e", "name": "n"}]


class TestEmit:
    async def test_reaches_every_follower(self, db, runner, book):
        one, two, stranger = Diary(), Diary(), Diary()
        book.add(Job("one.clean", one.run, on="auth.user-deleted"))
        book.add(Job("two.clean", two.run, on="auth.user-deleted"))
        book.add(Job("two.greet", stranger.run, on="auth.user-created"))

        async with db.begin() as session:
            emit(session, "auth.user-deleted", user_id="7")
        await runner.run_due()

        assert one.entries == two.entries == [{"user_id": "7"}]
        assert stranger.entries == []

    async def test_says_nothing_when_the_transaction_fails(self, db, runner, book):
        diary = Diary()
        book.add(Job("one.clean", diary.run, on="auth.user-deleted"))

        async def tell_and_fail() -> None:
            async with db.begin() as session:
                emit(session, "auth.user-deleted", user_id="7")
                raise KeyError

        with pytest.raises(KeyError):
            await tell_and_fail()

        assert await runner.run_due() == 0

    async def test_does_not_mind_that_nobody_listens(self, db, runner):
        async with db.begin() as session:
            emit(session, "auth.user-deleted", user_id="7")

        assert await rows(db) == []


class TestJobBook:
    def test_refuses_a_job_declared_twice(self, book, diary):
        with pytest.raises(ValueError, match=r"declared twice: test\.write"):
            book.add(Job("test.write", diary.run))


class TestRetry:
    async def test_comes_back_after_a_pause_and_keeps_the_error(self, db, runner, book, clock):
        diary = Diary(failures=1)
        book.add(Job("test.write", diary.run))
        await put_off(db, "test.write")

        await runner.run_due()

        (row,) = await rows(db)
        assert (row.state, row.attempts, row.error) == (READY, 1, "LookupError: attempt 1 failed")
        assert timedelta(seconds=1.5) <= row.due_at - clock.now <= timedelta(seconds=2)

    async def test_succeeds_when_the_pause_is_over(self, db, runner, book, clock):
        diary = Diary(failures=2)
        book.add(Job("test.write", diary.run))
        await put_off(db, "test.write")

        for _ in range(3):
            await runner.run_due()
            clock.advance(10)

        assert len(diary.entries) == 3
        assert await rows(db) == []

    async def test_is_buried_after_the_last_attempt(self, db, runner, book, clock):
        diary = Diary(failures=99)
        book.add(Job("test.write", diary.run, max_attempts=3))
        await put_off(db, "test.write", text="kept")

        for _ in range(10):
            await runner.run_due()
            clock.advance(5000)

        (row,) = await rows(db)
        assert len(diary.entries) == 3
        assert (row.state, row.error) == (DEAD, "LookupError: attempt 3 failed")
        assert row.args == {"text": "kept"}

    async def test_holds_up_no_other_job(self, db, runner, book, diary):
        book.add(Job("test.fail", Diary(failures=99).run))
        await put_off(db, "test.fail")
        await put_off(db, "test.write")

        await runner.run_due()

        assert len(diary.entries) == 1

    async def test_keeps_a_long_error_short(self, db, runner, book):
        async def fail() -> None:
            raise LookupError("x" * 100_000)

        book.add(Job("test.fail", fail))
        await put_off(db, "test.fail")

        await runner.run_due()

        (row,) = await rows(db)
        assert len(row.error) == 2000

    async def test_buries_a_job_that_nobody_has(self, db, runner, clock):
        await put_off(db, "gone.module")

        ran = [await runner.run_due()]
        clock.advance(100_000)
        ran.append(await runner.run_due())

        (row,) = await rows(db)
        assert ran == [1, 0]
        assert (row.state, row.error) == (DEAD, "no enabled module has this job")

    async def test_buries_a_job_that_does_not_take_its_arguments(self, db, runner, book, clock):
        async def narrow(known: str) -> None: ...

        book.add(Job("test.narrow", narrow, max_attempts=1))
        await put_off(db, "test.narrow", unknown="1")

        await runner.run_due()

        (row,) = await rows(db)
        assert row.state == DEAD
        assert row.error.startswith("TypeError: ")

    def test_pauses_longer_each_time_up_to_an_hour(self):
        pauses = [back_off(attempt).total_seconds() for attempt in range(1, 20)]

        longest = [min(3600.0, 2.0**attempt) for attempt in range(1, 20)]
        assert all(
            0.75 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True)
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
        await until(lambda: started)
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


class TestSchedule:
    @pytest.fixture
    def ticks(self, book: JobBook) -> list[dict[str, str]]:
        diary = Diary()
        book.add(Job("test.tick", diary.run, cron="* * * * *"))
        return diary.entries

    async def test_first_fires_at_the_next_tick(self, db, open_runner, ticks, clock):
        runner = await open_runner()

        await runner.run_due()
        before = len(ticks)
        clock.advance(30)
        await runner.run_due()
        await until(lambda: ticks)

        assert (before, len(ticks)) == (0, 1)
        assert await next_at(db) == START + timedelta(seconds=90)

    async def test_fires_each_tick_once(self, open_runner, ticks, clock):
        first, second = await open_runner(), await open_runner()

        for _ in range(10):
            clock.advance(60)
            await asyncio.gather(first.run_due(), second.run_due())

        await until(lambda: len(ticks) >= 10)
        assert len(ticks) == 10

    async def test_fires_a_tick_that_it_comes_late_to(self, db, book, open_runner, clock):
        diary = Diary()
        book.add(Job("test.second", diary.run, cron="* * * * * *"))
        runner = await open_runner()

        clock.advance(7)
        await runner.run_due()

        await until(lambda: len(diary.entries) >= 7)
        assert len(diary.entries) == 7

    async def test_makes_up_for_an_outage_once_and_not_tick_by_tick(
        self, open_runner, ticks, clock
    ):
        runner = await open_runner()

        clock.advance(8 * 3600)
        await runner.run_due()

        await until(lambda: ticks)
        assert len(ticks) <= 1 + CATCH_UP_S / 60

    async def test_keeps_its_next_tick_over_a_restart(self, db, open_runner, ticks, clock):
        await (await open_runner()).close()
        planned = await next_at(db)
        clock.advance(3600)

        await open_runner()

        assert planned == START + timedelta(seconds=30)
        await until(lambda: ticks)

    async def test_follows_a_new_plan(self, db, open_runner, ticks, clock):
        await (await open_runner()).close()
        book = JobBook([Job("test.tick", Diary().run, cron="0 0 1 1 *")])
        changed = JobRunner(db, book, clock)

        await changed.open()

        assert await next_at(db) == datetime(2101, 1, 1, tzinfo=START.tzinfo)
        await changed.close()

    async def test_is_forgotten_with_its_module(self, db, open_runner, ticks, clock):
        await (await open_runner()).close()
        without = JobRunner(db, JobBook(), clock)

        await without.open()

        async with db.read() as session:
            assert list(await session.scalars(select(ScheduleRow))) == []
        await without.close()

    async def test_counts_monday_as_monday(self, db, book, open_runner):
        book.add(Job("test.monday", Diary().run, cron="0 9 * * 1"))

        await open_runner()

        assert (await next_at(db)).isoweekday() == 1


class RunnerProcess:
    """Another process; see ``runner_process.py``."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.kernel.runner_process"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe)
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def tell(self, *words: str) -> None:
        print(*words, file=self._process.stdin, flush=True)

    def answer(self) -> list[str]:
        return self._answers.get(timeout=ANSWER_WITHIN_S).split()

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait(ANSWER_WITHIN_S)
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)


@pytest.fixture(scope="module")
def processes() -> Iterator[list[RunnerProcess]]:
    processes = [RunnerProcess() for _ in range(3)]
    yield processes
    for process in processes:
        process.end()


def tell_all(processes: list[RunnerProcess], *words: str) -> Counter[str]:
    """Tell all of them at once, and count what they say together."""
    for process in processes:
        process.tell(*words)
    return sum((Counter(process.answer()) for process in processes), Counter())


class TestProcesses:
    def test_fire_each_tick_and_run_each_job_exactly_once(self, db, database_url, processes):
        clock = FakeClock()
        ran = tell_all(processes, "open", database_url, clock.now.isoformat())
        asyncio.run(put_off_many(database_url, 60))

        for _ in range(20):
            clock.advance(1)
            ran += tell_all(processes, "run", clock.now.isoformat())
        ran += tell_all(processes, "close")

        assert ran == Counter({"tick": 20, **{str(number): 1 for number in range(60)}})


async def put_off_many(database_url: str, count: int) -> None:
    db = Database(database_url, JobBook())
    async with db.begin() as session:
        for number in range(count):
            defer(session, "test.count", number=str(number))
    await db.close()
