"""What becomes of runs when processes die, stall, or disagree."""

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select

from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.modules.runs.api import Ended, Kind, News, RunLost
from app.modules.runs.models import RunRow
from app.modules.runs.service import runner
from tests import tables
from tests.fakes.clock import FakeClock
from tests.modules.runs.works import ANNA, Gate, ended, is_in, log, opened, people, started, story
from tests.waiting import until

SCRIPT = Path(__file__).with_name("crash_process.py")
ROOT = Path(__file__).parents[3]


async def prepare(file: Path) -> None:
    """A database with the tables and the users, for everybody to copy.

    Not by the process that forks: threads, which this may take, do not follow into a fork.
    """
    url = f"sqlite+insula:///{file}"
    await tables.lay(url)
    db = Database(url, JobBook())
    await people(db)
    await db.close()


def crashes(folder: Path, recovery: str, safety: str) -> list[dict]:
    """One finding for each point at which the process died."""
    asyncio.run(prepare(folder / "db"))
    command = [sys.executable, str(SCRIPT), str(folder), recovery, safety]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestDeath:
    """``kill -9`` on both sides of every transaction, then the next process."""

    def test_continues_what_may_be_done_again(self, tmp_path):
        found = crashes(tmp_path, "continue", "idempotent")

        assert len(found) >= 16
        for one in found:
            assert one["status"] == "completed", one
            assert len(one["done"]) == 3, one
            assert max(one["done"]) <= 2, one
            assert sum(one["done"]) <= 4, one
            assert one["seqs"] == list(range(1, len(one["seqs"]) + 1)), one

    def test_does_nothing_twice_that_may_be_done_once(self, tmp_path):
        found = crashes(tmp_path, "continue", "once")

        assert len(found) >= 16
        assert {one["status"] for one in found} == {"completed", "unknown"}
        for one in found:
            assert not one["done"] or max(one["done"]) == 1, one
            if one["status"] == "completed":
                assert one["done"] == [1, 1, 1], one

    def test_says_of_everything_else_that_it_was_interrupted(self, tmp_path):
        found = crashes(tmp_path, "interrupt", "idempotent")

        assert {one["status"] for one in found} == {"completed", "interrupted"}
        for one in found:
            if one["status"] == "interrupted":
                assert one["story"][-1] == "interrupted", one
            assert max(one["done"], default=0) <= 1, one


class TestStart:
    async def test_takes_over_all_that_the_last_process_left(self, house, cache, monkeypatch):
        monkeypatch.setattr(runner, "EXPIRED_AT_ONCE", 2)
        gate, clock = Gate(), FakeClock()
        async with opened(house, cache, Kind("test", gate.work)) as dead:
            runs = [await started(dead, house) for _ in range(5)]
            await until(lambda: gate.begun == 5)
            for task in dead.runner._loops:
                task.cancel()
            clock.advance(3600)
            async with opened(house, cache, Kind("test", gate.work), clock=clock) as heir:
                found = [await heir.runs.get(ANNA, run.id) for run in runs]

        assert [run.status for run in found] == ["interrupted"] * 5


class TestLease:
    """Two processes, on both databases."""

    async def test_of_a_living_process_is_kept(self, house, cache):
        gate = Gate()
        kind = Kind("test", gate.work)
        async with (
            opened(house, cache, kind, lease_s=1.0) as one,
            opened(house, cache, lease_s=1.0),
        ):
            run = await is_in(one, await started(one, house), "running")

            async def is_renewed() -> bool:
                return await lease_of(house, run) > 2.5

            await until(is_renewed)

            assert (await one.runs.get(ANNA, run.id)).status == "running"
            gate.may_end.set()
            assert (await ended(one, run)).status == "completed"

    async def test_that_is_over_lets_another_process_go_on(self, house, cache):
        stalled, fresh, clock = Gate(), Gate(), FakeClock()
        fresh.may_end.set()
        async with opened(house, cache, Kind("test", stalled.work, recovery="continue")) as one:
            run = await started(one, house)
            await until(lambda: stalled.begun)
            # It stalls: it neither renews its leases nor looks for others.
            for task in one.runner._loops:
                task.cancel()
            clock.advance(3600)
            kind = Kind("test", fresh.work, recovery="continue")
            async with opened(house, cache, kind, clock=clock, lease_s=1.0) as other:
                found = await ended(other, run)

        assert found.status == "completed"
        assert (stalled.begun, fresh.begun) == (1, 1)

    async def test_that_is_over_lets_its_holder_write_nothing_more(self, house, cache):
        lost: list[str] = []
        has_begun, may_write, clock = asyncio.Event(), asyncio.Event(), FakeClock()

        async def stale(turn):
            has_begun.set()
            await may_write.wait()
            try:
                await turn.say(News("output"))
            except RunLost:
                lost.append("say")
                raise
            return Ended()

        fresh = Gate()
        async with opened(house, cache, Kind("test", stale, recovery="continue")) as one:
            run = await started(one, house)
            await until(has_begun.is_set)
            # It stalls: it neither renews its leases nor looks for others.
            for task in one.runner._loops:
                task.cancel()
            clock.advance(3600)
            kind = Kind("test", fresh.work, recovery="continue")
            async with opened(house, cache, kind, clock=clock, lease_s=1.0) as other:
                await until(lambda: fresh.begun)
                may_write.set()
                await until(lambda: lost)
                fresh.may_end.set()
                await ended(other, run)
                events = await log(other, run)

        assert story(events) == ["pending", "running", "running", "completed"]


class TestTwoProcesses:
    async def test_a_run_is_done_by_one_of_them(self, house, cache):
        begun: list = []

        async def work(turn):
            begun.append(turn.run.id)
            return Ended()

        kind = Kind("test", work)
        async with opened(house, cache, kind) as one, opened(house, cache, kind):
            runs = [await started(one, house) for _ in range(30)]
            for run in runs:
                assert (await ended(one, run)).status == "completed"

        assert sorted(begun) == sorted(run.id for run in runs)

    async def test_a_cancel_in_one_stops_the_work_in_the_other(self, house, cache):
        gate = Gate()
        async with (
            opened(house, cache, Kind("test", gate.work)) as one,
            opened(house, cache) as other,
        ):
            run = await is_in(one, await started(one, house), "running")

            await other.runs.cancel(ANNA, run.id)
            await until(lambda: gate.cancelled)
            events = await log(one, run)

        assert (gate.begun, story(events)) == (1, ["pending", "running", "cancelled"])

    async def test_an_answer_in_one_reaches_the_work_in_the_other(self, house, cache):
        heard: list = []

        async def work(turn):
            heard.append(await turn.ask(News("question"), within_s=30))
            return Ended()

        async with (
            opened(house, cache, Kind("test", work)) as one,
            opened(house, cache) as other,
        ):
            run = await is_in(one, await started(one, house), "awaiting")
            async with house.begin() as session:
                await other.runs.answer(session, run.id, run.question_seq, {"text": "yes"})
            await ended(one, run)

        assert heard == [{"text": "yes"}]

    async def test_who_follows_in_one_hears_what_the_other_does(self, house, cache):
        gate = Gate()
        async with (
            opened(house, cache, Kind("test", gate.work)) as one,
            opened(house, cache) as other,
        ):
            run = await is_in(one, await started(one, house), "running")
            following = asyncio.create_task(log(other, run))
            gate.may_end.set()

            assert story(await following) == ["pending", "running", "completed"]


async def lease_of(db, run) -> float:
    """Seconds from the beginning of the run to the end of its lease."""
    async with db.read() as session:
        row = (await session.scalars(select(RunRow).where(RunRow.id == run.id))).one()
    with suppress(TypeError):
        return (row.lease_until - row.started_at).total_seconds()
    return 0.0
