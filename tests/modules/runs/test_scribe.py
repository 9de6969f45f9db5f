"""What runs say at the same moment is written together, and fails apart."""

import asyncio

import pytest

from app.kernel.ports import utc_now
from app.modules.runs.api import Kind, News
from app.modules.runs.repository import Hold
from app.modules.runs.service.scribe import Scribe
from tests.modules.runs.works import Gate, log, opened, started, story
from tests.waiting import until


class Counted:
    """Counts the transactions of a database."""

    def __init__(self, inner):
        self._inner = inner
        self.begun = 0

    def begin(self, *, is_durable=False):
        self.begun += 1
        return self._inner.begin(is_durable=is_durable)


@pytest.fixture
async def runs(house, cache):
    """Three runs at work, and how this process holds them."""
    gate = Gate()
    async with opened(house, cache, Kind("test", gate.work)) as module:
        found = [await started(module, house) for _ in range(3)]
        await until(lambda: gate.begun == 3)
        yield module, [(run, Hold(run.id, module.runner.worker, 1)) for run in found]
        gate.may_end.set()


def says(hold, word):
    return lambda repository: repository.say(hold, [News(word)])


class TestKeep:
    async def test_writes_together_what_is_said_at_once(self, house, runs):
        _module, held = runs
        db = Counted(house)
        scribe = Scribe(db, utc_now)

        rows = await asyncio.gather(*(scribe.keep(says(hold, "word")) for _, hold in held))

        assert [row.id for row in rows] == [run.id for run, _ in held]
        assert db.begun == 1

    async def test_what_fails_is_not_written_and_the_others_are(self, house, runs):
        module, held = runs
        scribe = Scribe(house, utc_now)

        async def fail(_):
            raise ValueError("not this one")

        writes = (None, fail, None)
        kept = await asyncio.gather(
            *(
                scribe.keep(says(hold, "word"), w)
                for (_, hold), w in zip(held, writes, strict=True)
            ),
            return_exceptions=True,
        )

        assert [type(one).__name__ for one in kept] == ["_Changed", "ValueError", "_Changed"]
        for (run, _), is_there in zip(held, (True, False, True), strict=True):
            async with house.read() as session:
                [found] = (await module.runs.find(session, [run.id])).values()
            assert (found.last_seq == 3) is is_there

    async def test_writes_nothing_with_a_run_that_is_lost(self, house, runs):
        _module, [(_, hold), *_] = runs
        scribe = Scribe(house, utc_now)
        written = []

        async def write(_):
            written.append(1)

        lost = Hold(hold.run_id, hold.worker, hold.fence - 1)

        assert await scribe.keep(says(lost, "word"), write) is None
        assert written == []

    async def test_who_has_left_before_it_began_is_not_written(self, house, runs):
        module, [(run, hold), (_, other), _] = runs
        scribe = Scribe(house, utc_now)
        leaving = asyncio.create_task(scribe.keep(says(hold, "left")))
        await asyncio.sleep(0)

        leaving.cancel()
        await scribe.keep(says(other, "word"))

        async with house.read() as session:
            [found] = (await module.runs.find(session, [run.id])).values()
        assert found.last_seq == 2

    async def test_keeps_the_order_of_what_one_run_says(self, house, cache):
        async def work(turn):
            await asyncio.gather(*(turn.say(News(word)) for word in "abc"))
            return Gate().ended

        async with opened(house, cache, Kind("test", work)) as module:
            run = await started(module, house)

            found = story(await log(module, run))

        assert found == ["pending", "running", "a", "b", "c", "completed"]
