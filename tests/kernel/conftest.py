"""Runners that share one database and one clock."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.adapters.queue.sql import JobRunner
from app.kernel.db import Database
from app.kernel.jobs import Job, JobBook
from tests.fakes.clock import FakeClock
from tests.kernel.diary import Diary


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
) -> AsyncIterator[Callable[[], Awaitable[JobRunner]]]:
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
