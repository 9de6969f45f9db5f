"""The store: journal first, rows in batches, each exactly once, and so is its cost."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.errors import Unavailable
from app.kernel.ports import utc_now
from app.modules.billing.adapters.journal import FileJournal
from app.modules.billing.adapters.memory import MemoryHolds
from app.modules.billing.domain.limits import Bound, subject_of
from app.modules.billing.models import SpentRow
from app.modules.billing.service.store import BATCH_ROWS, UsageStore
from tests.modules.billing.calls import KEY, USER, budget, usage
from tests.modules.billing.desks import count, make_desk

SUBJECT = subject_of("key", KEY)
BOUND = Bound(SUBJECT, budgets=budget(1_000_000))


@pytest.fixture
def holds() -> MemoryHolds:
    return MemoryHolds()


@pytest.fixture
def store(db, journal, holds) -> UsageStore:
    return UsageStore(db, journal, holds, utc_now)


def paid(nanos: int, **changes):
    return usage(user_id=USER, credential_id=KEY, cost_nanos=nanos, **changes)


def settle(store: UsageStore, holds: MemoryHolds, nanos: int) -> None:
    """As the meter settles a call without a claim."""
    one = paid(nanos)
    segment = store.write(one)
    store.owe(segment, nanos, holds.end(one.id, 0, nanos, (BOUND,)))


async def budget_of(holds: MemoryHolds) -> tuple[int, int]:
    """Spent in all, and held."""
    (found,) = (await holds.look((BOUND,), {})).standings
    return found.spent_nanos["total"], found.held_nanos


class TestFlush:
    async def test_stores_more_than_a_batch(self, db, store):
        for _ in range(BATCH_ROWS + 7):
            store.write(usage())

        await store.flush()

        assert await count(db) == BATCH_ROWS + 7

    async def test_a_crash_before_the_segment_is_dropped_doubles_nothing(
        self, db, folder, journal, holds
    ):
        class Crash(Exception):
            pass

        class DropsNothing(FileJournal):
            def drop(self, segment: str) -> None:
                raise Crash

        crashing = UsageStore(db, DropsNothing(folder), holds, utc_now)
        await crashing.spent([SUBJECT])
        crashing.write(paid(5))
        with pytest.raises(Crash):
            await crashing.flush()

        store = UsageStore(db, journal, holds, utc_now)
        await store.flush()

        assert await count(db) == 1
        assert list(journal.closed_segments()) == []
        assert (await store.spent([SUBJECT]))[SUBJECT].total_nanos == 5

    async def test_a_lost_database_costs_no_row_and_closes_no_more_segments(
        self, db, journal, holds
    ):
        class Down:
            def begin(self):
                raise Unavailable("down")

        failing = UsageStore(Down(), journal, holds, utc_now)
        for _ in range(3):
            failing.write(usage())
            with pytest.raises(Unavailable):
                await failing.flush()
        closed = list(journal.closed_segments())

        await UsageStore(db, journal, holds, utc_now).flush()

        assert len(closed) == 1
        assert await count(db) == 3

    async def test_money_is_owed_until_the_row_is_stored_and_spent_from_then_on(self, store, holds):
        await holds.look((BOUND,), await store.spent([SUBJECT]))
        settle(store, holds, 7)
        before = await budget_of(holds)

        await store.flush()

        assert before == (0, 7)
        assert await budget_of(holds) == (7, 0)

    async def test_money_of_rows_stored_before_is_asked_for_again(self, store, holds):
        await holds.look((BOUND,), await store.spent([SUBJECT]))
        twice = paid(7)
        store.write(twice)
        await store.flush()
        store.write(twice)

        await store.flush()

        assert (await holds.look((BOUND,), {})).missing == (SUBJECT,)
        assert (await store.spent([SUBJECT]))[SUBJECT].total_nanos == 7

    async def test_money_of_rows_that_another_process_has_stored_is_asked_for_again(
        self, db, store, folder, journal, holds
    ):
        await holds.look((BOUND,), await store.spent([SUBJECT]))
        settle(store, holds, 7)
        journal.close_segment()
        (segment,) = journal.closed_segments()

        class LooksAway(FileJournal):
            def closed_segments(self):
                return [segment]

        await UsageStore(db, FileJournal(folder), MemoryHolds(), utc_now).flush()
        late = UsageStore(db, LooksAway(folder), holds, utc_now)
        late.owe(segment, 7, (BOUND,))
        await late.flush()

        assert (await holds.look((BOUND,), {})).missing == (SUBJECT,)
        assert (await store.spent([SUBJECT]))[SUBJECT].total_nanos == 7

    async def test_subjects_without_a_budget_get_no_sum(self, db, store):
        store.write(paid(7))

        await store.flush()

        assert await count(db, SpentRow) == 0


class TestSpent:
    async def test_of_who_never_used_anything_is_nothing(self, store):
        found = (await store.spent([SUBJECT]))[SUBJECT]

        assert (found.version, found.total_nanos, found.day_nanos) == (0, 0, 0)

    async def test_has_the_rows_from_before_the_first_budget(self, store):
        now_ms = int(utc_now().timestamp() * 1000)
        store.write(paid(5, started_at_ms=now_ms))
        store.write(paid(2, started_at_ms=1))

        found = (await store.spent([SUBJECT]))[SUBJECT]

        assert (found.total_nanos, found.month_nanos, found.day_nanos) == (7, 5, 5)

    async def test_counts_a_user_over_all_of_its_keys(self, store):
        store.write(paid(5))
        store.write(usage(user_id=USER, cost_nanos=2))
        user = subject_of("user", USER)

        found = await store.spent([SUBJECT, user])

        assert (found[SUBJECT].total_nanos, found[user].total_nanos) == (5, 7)

    async def test_grows_with_every_flush_that_stores_something(self, store):
        await store.spent([SUBJECT])
        store.write(paid(5))
        await store.flush()
        store.write(paid(2))
        await store.flush()

        found = (await store.spent([SUBJECT]))[SUBJECT]

        assert (found.version, found.total_nanos) == (2, 7)

    async def test_of_a_sum_that_was_begun_is_what_is_stored(self, store):
        await store.spent([SUBJECT])
        store.write(paid(5))

        assert (await store.spent([SUBJECT]))[SUBJECT].total_nanos == 0

    async def test_two_who_begin_the_same_sum_find_the_same(self, db, store, tmp_path):
        other = UsageStore(db, FileJournal(tmp_path / "other"), MemoryHolds(), utc_now)
        store.write(paid(5))
        other.write(paid(2))
        await store.flush()
        await other.flush()

        found = await asyncio.gather(*(one.spent([SUBJECT]) for one in (store, other) * 3))

        assert {one[SUBJECT].total_nanos for one in found} == {7}
        assert await count(db, SpentRow) == 1

    async def test_rows_that_others_store_meanwhile_are_in_it_or_in_the_next_version(
        self, db, tmp_path
    ):
        stores = [
            UsageStore(db, FileJournal(tmp_path / str(n)), MemoryHolds(), utc_now) for n in range(4)
        ]

        async def keep_storing(store: UsageStore) -> None:
            for _ in range(10):
                store.write(paid(1))
                await store.flush()

        await asyncio.gather(*(keep_storing(s) for s in stores), stores[0].spent([SUBJECT]))

        assert (await stores[0].spent([SUBJECT]))[SUBJECT].total_nanos == 40

    async def test_counts_what_is_settled_while_it_is_asked_exactly_once(self, store, holds):
        async def keep_settling() -> None:
            for _ in range(200):
                settle(store, holds, 1)
                await asyncio.sleep(0)

        settling = asyncio.create_task(keep_settling())
        await asyncio.sleep(0)
        await holds.look((BOUND,), await store.spent([SUBJECT]))
        while not settling.done():
            await store.flush()
        spent, held = await budget_of(holds)

        assert spent + held == 200
        await store.flush()
        assert await budget_of(holds) == (200, 0)


class TestCrash:
    PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.modules.billing.adapters.journal import FileJournal
from tests.modules.billing.desks import make_desk
from tests.modules.billing.test_store import paid

async def main(url, folder):
    desk = make_desk(Database(url, JobBook()), FileJournal(Path(folder)), MemoryCache())
    desk.meter.settle(paid(5))
    await desk.meter.flush()
    desk.meter.settle(paid(7))
    os.kill(os.getpid(), 9)

asyncio.run(main(*sys.argv[1:]))
"""

    async def test_a_killed_process_row_is_counted_once_by_the_next(self, db, tmp_path, journal):
        url = db.writer.url.render_as_string(hide_password=False)
        command = [sys.executable, "-c", self.PROGRAM, url, str(tmp_path / "usage")]
        killed = await asyncio.to_thread(
            subprocess.run, command, check=False, cwd=Path.cwd(), env=dict(os.environ)
        )
        desk = make_desk(db, journal, MemoryCache())

        found = await desk.store.spent([SUBJECT])
        await desk.store.flush()
        again = await desk.store.spent([SUBJECT])

        assert killed.returncode == -signal.SIGKILL
        assert found[SUBJECT].total_nanos == again[SUBJECT].total_nanos == 12
        assert await count(db) == 2
