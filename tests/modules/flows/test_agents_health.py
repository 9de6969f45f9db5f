"""The health of agents: when it is looked at, by whom, and what follows from it."""

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from aiohttp import web
from sqlalchemy import text

from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.modules.flows.repository.agents import AgentRepository
from app.modules.flows.service import agents as service
from app.modules.flows.service.agents import CLAIMED_FOR, LOOKS_AT_ONCE
from tests.fakes.clock import FakeClock
from tests.modules.flows.registry import (
    EVERY_S,
    NEW_SECRET,
    OWNER,
    TOKEN,
    opened,
    people,
    said,
)
from tests.modules.flows.scripted_agent import ScriptedAgent, agent_server, good, says, slow
from tests.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(service, "DUE_EVERY_S", 0.01)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def registry(sqlite, clock):
    await people(sqlite)
    async with opened(sqlite, clock) as one:
        yield one


@pytest.fixture
async def agent():
    async with agent_server() as server:
        yield server


@pytest.fixture
def register(registry, agent):
    async def add(agent_id: str = "helper", **more):
        return await registry.agents.register(OWNER, said(agent_id, agent.url, **more))

    return add


@asynccontextmanager
async def watched(*agents):
    """Let processes look at health while the block lasts."""
    watches = [asyncio.create_task(one.watch()) for one in agents]
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()
        for watch in watches:
            with suppress(asyncio.CancelledError):
                await watch


async def is_in_state(registry, state: str, agent_id: str = "helper") -> None:
    async def is_there() -> bool:
        return await registry.state(agent_id) == state

    await until(is_there)


class TestState:
    async def test_is_healthy_when_the_agent_answers(self, registry, register, clock):
        await register()

        async with watched(registry.agents):
            await is_in_state(registry, "healthy")

        row = await registry.row()
        assert (row.looked_at, row.seen_at) == (clock.now, clock.now)

    async def test_leaves_when_the_agent_was_changed(self, registry, register, clock):
        changed_at = (await register()).updated_at
        clock.advance(1)

        async with watched(registry.agents):
            await is_in_state(registry, "healthy")

        assert (await registry.row()).updated_at == changed_at

    async def test_is_asked_for_with_the_token(self, registry, register, agent):
        await register(token=TOKEN)

        async with watched(registry.agents):
            await until(lambda: agent.looks)

        assert agent.looks[0].headers["authorization"] == f"Bearer {TOKEN}"

    async def test_is_unhealthy_when_the_agent_is_not_ready(self, registry, register, agent):
        agent.health = {"ready": False}
        await register()

        async with watched(registry.agents):
            await is_in_state(registry, "unhealthy")

        assert (await registry.row()).seen_at is None

    @pytest.mark.parametrize("behaviour", [says(b"", status=500), says([]), slow])
    async def test_is_unhealthy_without_a_good_answer(
        self, registry, register, agent, behaviour, monkeypatch
    ):
        monkeypatch.setattr(service, "LOOK_WITHIN_S", 0.05)
        agent.behaviour = behaviour
        await register()

        async with watched(registry.agents):
            await is_in_state(registry, "unhealthy")

    async def test_is_unhealthy_where_the_token_cannot_be_read(
        self, registry, register, agent, clock
    ):
        await register(token=TOKEN)

        async with opened(registry.db, clock, NEW_SECRET) as later, watched(later.agents):
            await is_in_state(registry, "unhealthy")

        assert agent.looks == []

    async def test_follows_the_agent(self, registry, register, agent, clock):
        await register()
        async with watched(registry.agents):
            await is_in_state(registry, "healthy")
            well_at = clock.now

            agent.behaviour = says(b"", status=500)
            clock.advance(EVERY_S)
            await is_in_state(registry, "unhealthy")
            fell_ill = await registry.row()

            agent.behaviour = good
            clock.advance(EVERY_S)
            await is_in_state(registry, "healthy")

        assert (fell_ill.seen_at, fell_ill.looked_at) == (
            well_at,
            well_at + timedelta(seconds=EVERY_S),
        )
        assert (await registry.row()).seen_at == clock.now


class TestWatch:
    async def test_does_not_look_again_before_it_is_due(self, registry, register, agent, clock):
        await register()
        async with watched(registry.agents):
            await is_in_state(registry, "healthy")
            clock.advance(EVERY_S - 1)

            await register("next")
            await is_in_state(registry, "healthy", "next")

        assert len(agent.looks) == 2

    async def test_looks_at_no_agent_that_is_not_active(self, registry, register, agent):
        await register("off", is_active=False)
        await register("on")

        async with watched(registry.agents):
            await is_in_state(registry, "healthy", "on")

        assert await registry.state("off") == "unknown"
        assert len(agent.looks) == 1

    async def test_looks_at_some_at_once_and_never_at_more(self, registry, register, agent):
        crowd = Crowd(agent)
        names = [f"agent-{number}" for number in range(LOOKS_AT_ONCE + 4)]
        for name in names:
            await register(name)

        async with watched(registry.agents):
            await until(lambda: crowd.inside == LOOKS_AT_ONCE)
            crowd.gate.set()
            for name in names:
                await is_in_state(registry, "healthy", name)

        assert crowd.most == LOOKS_AT_ONCE

    async def test_goes_on_with_others_while_one_is_slow(self, registry, register, agent):
        crowd = Crowd(agent)
        await register("slow")
        async with watched(registry.agents), agent_server() as quick:
            await until(lambda: crowd.inside)

            await registry.agents.register(OWNER, said("quick", quick.url))

            await is_in_state(registry, "healthy", "quick")
        assert await registry.state("slow") == "unknown"

    async def test_forgets_who_is_removed_meanwhile(self, registry, register, agent):
        crowd = Crowd(agent)
        await register()
        async with watched(registry.agents):
            await until(lambda: crowd.inside)
            await registry.agents.remove(OWNER.user_id, "helper")
            crowd.gate.set()

            await register("next")
            await is_in_state(registry, "healthy", "next")

        assert await registry.agents.tally(OWNER.user_id) == (1, 1)

    async def test_goes_on_after_a_failure_of_the_database(self, registry, register, caplog):
        await register()
        await rename(registry.db, "flows_agents", "elsewhere")
        async with watched(registry.agents):
            await until(lambda: "flows.agents-failed" in caplog.messages)

            await rename(registry.db, "elsewhere", "flows_agents")

            await is_in_state(registry, "healthy")

    async def test_ends_with_whoever_has_begun_it(self, registry, register, agent):
        crowd = Crowd(agent)
        await register()

        async with watched(registry.agents):
            await until(lambda: crowd.inside)

        await until(lambda: not crowd.inside)


class TestProcesses:
    @pytest.fixture
    async def first(self, db, clock):
        """One of two processes, on both databases."""
        await people(db)
        async with opened(db, clock) as one:
            yield one

    @pytest.fixture
    async def second(self, first, database_url, clock):
        """The other one, with connections of its own."""
        db = Database(database_url, JobBook())
        async with opened(db, clock) as one:
            yield one
        await db.close()

    async def test_look_once_at_each_agent(self, first, second, agent):
        names = [f"agent-{number}" for number in range(30)]
        for name in names:
            await first.agents.register(OWNER, said(name, agent.url))

        async with watched(first.agents, second.agents):
            for name in names:
                await is_in_state(first, "healthy", name)

        assert len(agent.looks) == 30

    async def test_look_at_what_another_has_claimed_and_left(self, first, second, agent, clock):
        await first.agents.register(OWNER, said("helper", agent.url))
        await claim(first, clock)

        async with watched(second.agents):
            await second.agents.register(OWNER, said("next", agent.url))
            await is_in_state(second, "healthy", "next")
            before = await second.state()
            clock.advance(CLAIMED_FOR.total_seconds())
            await is_in_state(second, "healthy")

        assert before == "unknown"

    async def test_do_not_write_over_what_was_found_later(self, first, second, clock):
        await first.agents.register(OWNER, said())
        (late,) = await claim(first, clock)
        clock.advance(CLAIMED_FOR.total_seconds())
        (row,) = await claim(second, clock)
        await note(second, row, "healthy", clock)

        await note(first, late, "unhealthy", clock)

        assert await first.state() == "healthy"


class Crowd:
    """Looks that wait at an agent until ``gate`` is set, and how many there were at once."""

    def __init__(self, agent: ScriptedAgent) -> None:
        self.gate = asyncio.Event()
        self.inside = 0
        self.most = 0
        agent.behaviour = self.hold

    async def hold(self, agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
        finally:
            self.inside -= 1
        return web.json_response({"ready": True})


async def claim(registry, clock):
    async with registry.db.begin() as session:
        return await AgentRepository(session).claim(clock.now, clock.now + CLAIMED_FOR, 10)


async def note(registry, row, state, clock):
    later = clock.now + timedelta(seconds=EVERY_S)
    async with registry.db.begin() as session:
        await AgentRepository(session).note(row, state, clock.now, later)


async def rename(db: Database, name: str, other: str) -> None:
    async with db.begin() as session:
        await session.execute(text(f"ALTER TABLE {name} RENAME TO {other}"))
