"""Schedules: each tick once, by however many runners and processes, on both databases."""

import asyncio
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.adapters.queue.sql import CATCH_UP_S, JobRunner
from app.kernel.db import Database
from app.kernel.jobs import Job, JobBook, ScheduleRow, defer
from tests.fakes.clock import START, FakeClock
from tests.kernel.diary import Diary
from tests.waiting import until

ROOT = Path(__file__).parents[2]
ANSWER_WITHIN_S = 30


async def next_at(db: Database) -> datetime:
    async with db.read() as session:
        return (await session.scalars(select(ScheduleRow.next_at))).one()


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
