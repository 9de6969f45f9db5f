"""What runs write survives a power cut, where their kind says so."""

import pytest

from app.modules.runs.api import Ended, Kind, News
from tests.modules.runs.works import ANNA, Gate, ended, opened, started
from tests.waiting import until
from tests.watched import Watched


@pytest.fixture
def watched(house):
    return Watched(house)


def speaking(watched, seen):
    async def work(turn):
        watched.commits.clear()
        await turn.say(News("word"))
        seen.extend(watched.commits)
        return Ended()

    return work


class TestSay:
    @pytest.mark.parametrize("is_durable", [True, False])
    async def test_is_waited_for_until_it_is_on_the_disk(self, watched, cache, is_durable):
        seen = []
        kind = Kind("test", speaking(watched, seen), is_durable=is_durable)

        async with opened(watched, cache, kind) as module:
            await ended(module, await started(module, watched))

        assert seen == [is_durable]


class TestEnd:
    @pytest.mark.parametrize("is_durable", [True, False])
    async def test_is_waited_for_until_it_is_on_the_disk(self, watched, cache, is_durable):
        kind = Kind("test", speaking(watched, []), is_durable=is_durable)

        async with opened(watched, cache, kind) as module:
            await ended(module, await started(module, watched))
            await until(lambda: watched.commits == [is_durable, is_durable])


class TestCancel:
    async def test_is_final_after_a_power_cut_too(self, watched, cache):
        gate = Gate()
        async with opened(watched, cache, Kind("test", gate.work)) as module:
            run = await started(module, watched)
            await until(lambda: gate.begun == 1)
            watched.commits.clear()

            await module.runs.cancel(ANNA, run.id)

            assert watched.commits == [True]
