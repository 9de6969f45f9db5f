"""Agents: whose they are, what is kept of them, and who may be asked."""

import asyncio

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.util import await_only

from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.modules.flows.domain.agents import (
    RESERVED,
    AgentInvalid,
    AgentTaken,
    NoSuchAgent,
    TooManyAgents,
    Variable,
)
from app.modules.flows.models import AgentRow
from app.modules.flows.ports import AgentCall, AgentRefused
from app.modules.flows.service import agents as service
from app.outbound.addresses import BadEndpoint, EndpointForbidden
from tests.fakes.clock import FakeClock
from tests.modules.flows.registry import (
    ANNA,
    BERT,
    NEW_SECRET,
    OWNER,
    PUBLIC,
    SECRET,
    TOKEN,
    opened,
    people,
    said,
)
from tests.modules.flows.scripted_agent import agent_server, says, slow

CALL = AgentCall("execution-1", "ask", {"question": "why"}, {})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def registry(sqlite, clock):
    await people(sqlite)
    async with opened(sqlite, clock) as one:
        yield one


@pytest.fixture
def agents(registry):
    return registry.agents


@pytest.fixture
async def first(db, clock):
    """The agents of one of two processes, on both databases."""
    await people(db)
    async with opened(db, clock) as one:
        yield one.agents


@pytest.fixture
async def second(first, database_url, clock):
    """Those of the other one, with connections of its own."""
    db = Database(database_url, JobBook())
    async with opened(db, clock) as one:
        yield one.agents
    await db.close()


@pytest.fixture
async def agent():
    async with agent_server() as server:
        yield server


class TestRegister:
    async def test_keeps_what_was_said(self, first, clock):
        wanted = said(
            description="Helps.\nA lot.",
            capabilities=("conversation", "decision_making", "conversation"),
            agent_type="conditional",
            is_idempotent=True,
            environment_schema={"KEY": Variable(type="password", required=True)},
            configuration={"deep": [{"er": 1.5}]},
            metadata={"nul": "\x00", "big": 2**70},
        )

        await first.register(ANNA, wanted)

        row = await first.get(ANNA.user_id, "helper")
        assert (row.name, row.endpoint, row.description) == ("Helper", PUBLIC, "Helps.\nA lot.")
        assert row.capabilities == ["conversation", "decision_making"]
        assert (row.agent_type, row.is_active, row.is_idempotent) == ("conditional", True, True)
        assert row.environment_schema["KEY"]["type"] == "password"
        assert row.configuration == {"deep": [{"er": 1.5}]}
        assert row.notes == {"nul": "\x00", "big": 2**70}
        assert (row.state, row.seen_at, row.looked_at) == ("unknown", None, None)
        assert (row.created_at, row.updated_at) == (clock.now, clock.now)

    async def test_answers_the_agent(self, agents):
        row = await agents.register(ANNA, said())

        assert (row.agent_id, row.user_id) == ("helper", ANNA.user_id)

    async def test_keeps_no_token_that_could_be_read(self, agents):
        await agents.register(ANNA, said(token=TOKEN))

        row = await agents.get(ANNA.user_id, "helper")
        assert row.token is not None
        assert TOKEN.encode() not in row.token

    async def test_refuses_an_id_that_the_user_has(self, first):
        await first.register(ANNA, said())

        with pytest.raises(AgentTaken, match="'helper' already"):
            await first.register(ANNA, said(name="Another"))

        assert (await first.get(ANNA.user_id, "helper")).name == "Helper"

    async def test_takes_an_id_that_another_user_has(self, agents):
        await agents.register(ANNA, said())

        await agents.register(BERT, said(name="Bert's"))

        assert (await agents.get(ANNA.user_id, "helper")).name == "Helper"

    async def test_takes_an_id_once_from_two_at_once(self, first, second):
        both = await asyncio.gather(
            first.register(ANNA, said()),
            second.register(ANNA, said()),
            return_exceptions=True,
        )

        assert [type(one) for one in both].count(AgentTaken) == 1
        assert await first.tally(ANNA.user_id) == (1, 1)

    @pytest.mark.parametrize("agent_id", sorted(RESERVED))
    async def test_refuses_an_id_that_is_a_path(self, agents, agent_id):
        with pytest.raises(AgentInvalid, match="agent_id must not be"):
            await agents.register(ANNA, said(agent_id))

    async def test_lets_the_owner_name_a_private_address(self, agents):
        row = await agents.register(OWNER, said(endpoint="http://192.168.0.7:9000/"))

        assert (row.endpoint, row.may_be_private) == ("http://192.168.0.7:9000", True)

    async def test_refuses_another_users_private_address(self, agents):
        with pytest.raises(EndpointForbidden):
            await agents.register(ANNA, said(endpoint="http://192.168.0.7:9000"))

        assert await agents.tally(ANNA.user_id) == (0, 0)

    async def test_does_not_trust_another_users_public_address(self, agents):
        row = await agents.register(ANNA, said())

        assert row.may_be_private is False

    async def test_refuses_the_owners_metadata_address(self, agents):
        with pytest.raises(EndpointForbidden):
            await agents.register(OWNER, said(endpoint="http://169.254.169.254"))

    @pytest.mark.parametrize("endpoint", ["ftp://example.org", "https://a:b@example.org", "x"])
    async def test_refuses_what_is_no_endpoint(self, agents, endpoint):
        with pytest.raises(BadEndpoint):
            await agents.register(ANNA, said(endpoint=endpoint))

    async def test_refuses_one_more_than_there_may_be(self, agents, monkeypatch):
        monkeypatch.setattr(service, "AGENTS_LIMIT", 2)
        await agents.register(ANNA, said("first"))
        await agents.register(ANNA, said("second"))

        with pytest.raises(TooManyAgents, match="2 agents"):
            await agents.register(ANNA, said("third"))

    async def test_does_not_count_another_users(self, agents, monkeypatch):
        monkeypatch.setattr(service, "AGENTS_LIMIT", 1)
        await agents.register(ANNA, said())

        await agents.register(BERT, said())

        assert await agents.tally(BERT.user_id) == (1, 1)

    async def test_refuses_notes_that_are_too_long(self, agents):
        with pytest.raises(AgentInvalid, match="65,536 bytes"):
            await agents.register(ANNA, said(metadata={"a": "x" * 65_536}))

    async def test_refuses_notes_that_are_nested_too_deep(self, agents):
        nested: list = []
        for _ in range(900):
            nested = [nested]

        with pytest.raises(AgentInvalid, match="100 levels"):
            await agents.register(ANNA, said(configuration={"a": nested}))


class TestRemove:
    async def test_drops_an_agent(self, first):
        await first.register(ANNA, said())

        await first.remove(ANNA.user_id, "helper")

        assert await first.tally(ANNA.user_id) == (0, 0)

    async def test_frees_the_id(self, agents):
        await agents.register(ANNA, said())
        await agents.remove(ANNA.user_id, "helper")

        await agents.register(ANNA, said(name="Next"))

        assert (await agents.get(ANNA.user_id, "helper")).name == "Next"

    async def test_knows_no_agent_of_another_user(self, agents):
        await agents.register(ANNA, said())

        with pytest.raises(NoSuchAgent):
            await agents.remove(BERT.user_id, "helper")

        assert await agents.tally(ANNA.user_id) == (1, 1)


class TestGet:
    async def test_knows_no_agent_of_another_user(self, agents):
        await agents.register(ANNA, said())

        with pytest.raises(NoSuchAgent, match="no agent 'helper'"):
            await agents.get(BERT.user_id, "helper")


class TestPage:
    async def test_lists_the_users_agents_by_id(self, agents):
        for agent_id in ("second", "first"):
            await agents.register(ANNA, said(agent_id))
        await agents.register(BERT, said("berts"))

        rows = await agents.page(ANNA.user_id)

        assert [row.agent_id for row in rows] == ["first", "second"]

    async def test_lists_only_those_that_are_active(self, first):
        await first.register(ANNA, said("on"))
        await first.register(ANNA, said("off", is_active=False))

        rows = await first.page(ANNA.user_id, is_active=True)

        assert [row.agent_id for row in rows] == ["on"]


class TestTally:
    async def test_counts_all_and_those_that_are_active(self, first):
        await first.register(ANNA, said("on"))
        await first.register(ANNA, said("off", is_active=False))
        await first.register(BERT, said())

        assert await first.tally(ANNA.user_id) == (2, 1)


class TestKnown:
    async def test_answers_the_users_active_agents(self, first):
        await first.register(ANNA, said("on"))
        await first.register(ANNA, said("off", is_active=False))
        await first.register(BERT, said("berts"))

        known = await first.known(ANNA.user_id, ["on", "off", "berts", "nobodys"])

        assert known == {"on"}

    async def test_answers_nothing_for_nothing(self, agents):
        assert await agents.known(ANNA.user_id, []) == frozenset()

    async def test_sees_at_once_what_another_process_has_added(self, first, second):
        assert await first.known(ANNA.user_id, ["helper"]) == frozenset()

        await second.register(ANNA, said())

        assert await first.known(ANNA.user_id, ["helper"]) == {"helper"}

    async def test_is_remembered(self, agents, registry):
        await agents.register(ANNA, said())
        await agents.known(ANNA.user_id, ["helper"])
        statements = listen(registry.db)

        assert await agents.known(ANNA.user_id, ["helper"]) == {"helper"}
        assert await agents.find(ANNA.user_id, "helper") is not None
        assert statements == []


class TestFind:
    async def test_answers_where_the_agent_is_and_its_token(self, agents, clock):
        await agents.register(OWNER, said(token=TOKEN, is_idempotent=True))

        found = await agents.find(OWNER.user_id, "helper")

        assert found is not None
        assert (found.address.endpoint, found.address.token) == (PUBLIC, TOKEN)
        assert found.address.may_be_private
        assert (found.is_idempotent, found.changed_at) == (True, clock.now)

    async def test_shows_no_token(self, agents):
        await agents.register(ANNA, said(token=TOKEN))

        assert TOKEN not in repr(await agents.find(ANNA.user_id, "helper"))

    async def test_knows_no_agent_that_is_not_active(self, agents):
        await agents.register(ANNA, said(is_active=False))

        assert await agents.find(ANNA.user_id, "helper") is None

    async def test_knows_no_agent_of_another_user(self, agents):
        await agents.register(ANNA, said())
        await agents.find(ANNA.user_id, "helper")

        assert await agents.find(BERT.user_id, "helper") is None

    async def test_forgets_what_was_removed_here(self, agents):
        await agents.register(ANNA, said())
        await agents.find(ANNA.user_id, "helper")

        await agents.remove(ANNA.user_id, "helper")

        assert await agents.find(ANNA.user_id, "helper") is None

    async def test_sees_at_once_what_was_registered_anew_here(self, agents):
        await agents.register(ANNA, said())
        await agents.find(ANNA.user_id, "helper")
        await agents.remove(ANNA.user_id, "helper")

        await agents.register(ANNA, said(endpoint="https://next.example.org"))

        found = await agents.find(ANNA.user_id, "helper")
        assert found is not None
        assert found.address.endpoint == "https://next.example.org"

    async def test_sees_in_five_seconds_what_was_removed_elsewhere(self, first, second, clock):
        await first.register(ANNA, said())
        await first.find(ANNA.user_id, "helper")
        await second.remove(ANNA.user_id, "helper")

        before = await first.find(ANNA.user_id, "helper")
        clock.advance(5)

        assert before is not None
        assert await first.find(ANNA.user_id, "helper") is None

    async def test_does_not_remember_what_is_removed_while_it_is_asked_for(self, agents, registry):
        await agents.register(ANNA, said())
        removals = [agents.remove(ANNA.user_id, "helper")]

        def remove(_connection, _cursor, statement, *_) -> None:
            if statement.startswith("SELECT") and removals:
                await_only(removals.pop())

        event.listen(registry.db.reader.sync_engine, "after_cursor_execute", remove)
        before = await agents.find(ANNA.user_id, "helper")

        assert before is not None
        assert await agents.find(ANNA.user_id, "helper") is None

    async def test_asks_once_for_all_who_wait(self, agents, registry):
        await agents.register(ANNA, said())
        statements = listen(registry.db)

        found = await asyncio.gather(*(agents.find(ANNA.user_id, "helper") for _ in range(50)))

        assert len({one.address for one in found if one}) == 1
        assert len([one for one in statements if one.startswith("SELECT")]) == 1

    async def test_remembers_no_more_than_it_may(self, agents, monkeypatch):
        monkeypatch.setattr(service, "REMEMBERED_LIMIT", 2)
        for name in ("one", "two", "three"):
            await agents.register(ANNA, said(name))

        found = [await agents.find(ANNA.user_id, name) for name in ("one", "two", "three")]

        assert None not in found


class TestCall:
    async def test_answers_the_agents_output(self, agents, agent):
        await agents.register(OWNER, said(endpoint=agent.url, token=TOKEN))
        agent.answer = lambda call: {"answer": call.input["question"] + " not"}

        found = await agents.find(OWNER.user_id, "helper")
        output = await agents.call(found, CALL, within_s=10)

        assert output == {"answer": "why not"}
        assert agent.calls[0].headers["authorization"] == f"Bearer {TOKEN}"

    async def test_tells_that_the_agent_refuses(self, agents, agent):
        await agents.register(OWNER, said(endpoint=agent.url))
        agent.behaviour = says({"status": "error", "error_message": "No."})

        found = await agents.find(OWNER.user_id, "helper")
        with pytest.raises(AgentRefused, match="gave up: No"):
            await agents.call(found, CALL, within_s=10)

    async def test_reads_a_token_that_an_older_secret_has_sealed(
        self, agents, agent, sqlite, clock
    ):
        await agents.register(OWNER, said(endpoint=agent.url, token=TOKEN))

        async with opened(sqlite, clock, NEW_SECRET, SECRET) as later:
            found = await later.agents.find(OWNER.user_id, "helper")
            await later.agents.call(found, CALL, within_s=10)

        assert agent.calls[0].headers["authorization"] == f"Bearer {TOKEN}"

    async def test_never_calls_without_the_token_that_was_given(self, agents, agent, sqlite, clock):
        await agents.register(OWNER, said(endpoint=agent.url, token=TOKEN))

        async with opened(sqlite, clock, NEW_SECRET) as later:
            found = await later.agents.find(OWNER.user_id, "helper")
            with pytest.raises(AgentRefused, match="Register the agent again"):
                await later.agents.call(found, CALL, within_s=10)

        assert agent.calls == []

    async def test_uses_no_token_of_another_agents_row(self, agents, agent, registry):
        await agents.register(OWNER, said(endpoint=agent.url, token=TOKEN))
        await agents.register(OWNER, said("thief", endpoint=agent.url, token="other"))
        async with registry.db.begin() as session:
            sealed = (await registry.row("helper")).token
            thief = await session.get(AgentRow, (await registry.row("thief")).id)
            thief.token = sealed

        found = await agents.find(OWNER.user_id, "thief")
        with pytest.raises(AgentRefused, match="sealed"):
            await agents.call(found, CALL, within_s=10)


class TestTest:
    async def test_finds_an_agent_that_answers(self, agents, agent):
        connected, message = await agents.test(OWNER, agent.url + "/", TOKEN)

        assert (connected, message) == (True, "The agent is ready.")
        assert agent.looks[0].headers["authorization"] == f"Bearer {TOKEN}"

    async def test_says_that_the_agent_is_not_ready(self, agents, agent):
        agent.health = {"ready": False}

        connected, message = await agents.test(OWNER, agent.url, None)

        assert not connected
        assert "not ready" in message

    async def test_says_that_nobody_is_there(self, agents):
        async with agent_server() as gone:
            url = gone.url

        connected, message = await agents.test(OWNER, url, None)

        assert not connected
        assert "cannot be reached" in message

    async def test_does_not_wait_for_ever(self, agents, agent, monkeypatch):
        monkeypatch.setattr(service, "LOOK_WITHIN_S", 0.05)
        agent.behaviour = slow

        connected, message = await agents.test(OWNER, agent.url, None)

        assert not connected
        assert "did not answer in 0.05 s" in message

    async def test_refuses_a_private_address_of_who_is_not_the_owner(self, agents, agent):
        with pytest.raises(EndpointForbidden):
            await agents.test(ANNA, agent.url, None)

        assert agent.looks == []

    async def test_keeps_nothing(self, agents, agent, registry):
        await agents.test(OWNER, agent.url, TOKEN)

        async with registry.db.read() as session:
            assert await session.scalar(select(func.count(AgentRow.id))) == 0


def listen(db: Database) -> list[str]:
    """What is asked of the database from now on."""
    statements: list[str] = []
    event.listen(
        db.reader.sync_engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: statements.append(statement),
    )
    return statements
