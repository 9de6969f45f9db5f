"""What an execution has begun and done survives a power cut, before anything follows from it."""

import pytest

from app.modules.flows.domain.checks import parse_flow
from tests.fakes.clock import FakeClock
from tests.modules.flows.processes import CALLER, opened
from tests.modules.flows.registry import said
from tests.modules.runs import works
from tests.waiting import until
from tests.watched import Watched

CHAIN = {
    "flow_id": "chain",
    "name": "Chain",
    "nodes": [
        {"id": "a", "agent_id": "once"},
        {"id": "b", "agent_id": "once", "depends_on": ["a"]},
    ],
}


@pytest.fixture
async def watched(sqlite):
    await works.people(sqlite)
    return Watched(sqlite)


@pytest.fixture
async def process(watched):
    async with opened(watched, FakeClock()) as process:
        await process.agents.register(CALLER, said("once", endpoint="http://127.0.0.1:1"))
        await process.flows.create(CALLER.user_id, parse_flow(CHAIN))
        watched.commits.clear()
        yield process


class TestStart:
    async def test_is_on_the_disk_before_it_is_answered(self, process, watched):
        await process.start("chain")

        assert watched.commits[0]


class TestNode:
    async def test_is_on_the_disk_before_its_agent_is_called(self, process, watched, monkeypatch):
        seen = []
        execute = process.outlet.execute

        async def witnessed(agent, call, *, within_s):
            seen.append((call.node_id, watched.commits.count(True)))
            return await execute(agent, call, within_s=within_s)

        monkeypatch.setattr(process.outlet, "execute", witnessed)
        await process.ended(await process.start("chain"))

        # The start and the beginning of a; and with a's end the beginning of b.
        assert seen == [("a", 2), ("b", 3)]


class TestEnd:
    async def test_is_waited_for_until_it_is_on_the_disk(self, process, watched):
        await process.ended(await process.start("chain"))

        await until(lambda: watched.commits.count(True) == 4)
