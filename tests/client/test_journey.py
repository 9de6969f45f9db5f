"""What people do with the client, against the real server: in process, and over a socket."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

import ai_spine
from ai_spine import Agent, Execution, Flow, HealthStatus, Metrics, NodeResult, User
from tests.client.callers import Caller, caller
from tests.client.places import Through, here
from tests.house import AUTHORIZED, KEY
from tests.modules.flows.scripted_agent import ScriptedAgent, agent_server, good, says
from tests.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

WAYS = ("sync over a socket", "async over a socket", "async over ASGI")
QUICK = {"timeout": 20, "interval": 0.05}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory) -> AsyncIterator[Through]:
    async with here(tmp_path_factory.mktemp("house") / "data") as transport:
        yield transport


@pytest_asyncio.fixture(params=WAYS, loop_scope="module")
async def spine(request, server, house) -> AsyncIterator[Caller]:
    """A client of the server; what it pauses takes its time."""
    kind, _, place = request.param.partition(" over ")
    options = {} if place == "a socket" else {"transport": house}
    url = server if place == "a socket" else "http://127.0.0.1/spine"
    async with caller(kind, url, api_key=KEY, sleep=Caller.real(kind), **options) as client:
        yield client


@pytest.fixture
def name() -> str:
    """An id that nothing has."""
    return f"test-{uuid4().hex[:12]}"


def passing(name: str, **changes: object) -> dict:
    """A flow that gives back its input."""
    nodes = [{"id": "start", "type": "input"}]
    nodes.append({"id": "end", "type": "output", "depends_on": ["start"]})
    return {"flow_id": name, "name": "Passing", "nodes": nodes, **changes}


def asking(name: str) -> dict:
    """A flow that asks the agent of the same name."""
    return passing(name, nodes=[{"id": "ask", "agent_id": name, "config": {"timeout": 60}}])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[ScriptedAgent]:
    """An agent that outlives all looks at its health."""
    async with agent_server() as serving:
        yield serving


@pytest_asyncio.fixture(loop_scope="module")
async def agent(spine, worker, name) -> AsyncIterator[ScriptedAgent]:
    """An agent, registered, and a flow of the same name that asks it."""
    worker.behaviour, worker.cut = good, 0
    worker.calls.clear()
    config = {"agent_id": name, "name": "Agent", "endpoint": worker.url}
    await spine.call("create_agent", config)
    await spine.call("create_flow", asking(name))
    yield worker
    worker.gate.set()
    await spine.call("delete_agent", name)


class TestSystem:
    async def test_is_well(self, spine):
        said = await spine.call("health_check")

        assert HealthStatus.from_dict(said).is_healthy
        assert (await spine.call("get_health_details"))["database"] == "connected"
        assert (await spine.call("get_status"))["status"] == "operational"

    async def test_knows_its_caller(self, spine):
        user = User.from_dict(await spine.call("get_current_user"))

        assert user.name == "owner"
        assert user.credits == await spine.call("check_credits") > 0

    async def test_counts(self, spine, name):
        await spine.call("create_flow", passing(name))
        before = Metrics.from_dict(await spine.call("get_metrics"))

        await spine.call("execute_and_wait", name, {}, **QUICK)

        after = Metrics.from_dict(await spine.call("get_metrics"))
        assert after.successful_executions == before.successful_executions + 1
        assert after.executions_total == after.total_executions == before.total_executions + 1


class TestFlows:
    async def test_are_written_read_changed_and_deleted(self, spine, name):
        made = Flow.from_dict(await spine.call("create_flow", passing(name, metadata={"a": 1})))
        changed = await spine.call("update_flow", name, {"description": "Better."})

        assert (made.version, changed["version"]) == ("1.0.0", "1.0.1")
        assert (made.entry_point, made.exit_points) == ("start", ["end"])
        assert changed["metadata"] == {"a": 1}
        assert (await spine.call("get_flow", name))["description"] == "Better."
        assert (await spine.call("get_flow", name, "1.0.0"))["description"] == ""
        versions = await spine.call("list_flow_versions", name)
        assert {one["version"] for one in versions} == {"1.0.0", "1.0.1"}
        assert await spine.call("delete_flow", name) is True
        assert await spine.call("delete_flow", name) is False

    async def test_are_listed(self, spine, name):
        names = [f"{name}-{number}" for number in range(3)]
        for one in names:
            await spine.call("create_flow", passing(one))

        everything = {flow["flow_id"] for flow in await spine.call("list_flows")}
        mine = {flow["flow_id"] for flow in await spine.call("list_my_flows")}
        walked = [flow["flow_id"] for flow in await spine.all("iter_flows", page_size=2)]

        assert everything >= mine >= set(names)
        assert sorted(walked) == sorted(everything)

    async def test_that_could_not_run_are_refused_with_the_node(self, spine, name):
        circle = [{"id": "hen", "depends_on": ["egg"]}, {"id": "egg", "depends_on": ["hen"]}]

        with pytest.raises(ai_spine.ValidationError) as raised:
            await spine.call("create_flow", passing(name, nodes=circle))
        assert raised.value.details["node"] in {"hen", "egg"}
        assert raised.value.request_id

    async def test_are_refused_when_the_id_is_taken(self, spine, name):
        await spine.call("create_flow", passing(name))

        with pytest.raises(ai_spine.ConflictError):
            await spine.call("create_flow", passing(name))

    async def test_of_the_installation_are_not_changed(self, spine):
        with pytest.raises(ai_spine.APIError) as raised:
            await spine.call("update_flow", "review", {"name": "Mine"})
        assert raised.value.status_code == 403
        with pytest.raises(ai_spine.APIError):
            await spine.call("delete_flow", "review")


class TestExecutions:
    async def test_are_started_and_waited_for(self, spine, name):
        await spine.call("create_flow", passing(name))

        started = await spine.call(
            "execute_flow", name, {"name": "Ada"}, {"for": "test"}, priority=3, timeout=60
        )
        ended = await spine.call("wait_for_execution", started["execution_id"], **QUICK)

        assert started["status"] == "pending"
        assert started["created_at"].endswith("Z")
        execution = Execution.from_dict(ended)
        assert execution.is_successful
        assert execution.output_data == {"end": {"name": "Ada"}}
        assert execution.metadata == {"for": "test"}
        assert (execution.priority, execution.timeout) == (3, 60)
        assert execution.node_results["end"].status == "completed"
        assert execution.completed_at >= execution.created_at

    async def test_run_the_version_that_was_asked_for(self, spine, name):
        await spine.call("create_flow", passing(name))
        await spine.call("update_flow", name, {"nodes": [{"id": "only", "type": "input"}]})

        started = await spine.call("execute_flow", name, {"a": 1}, version="1.0.0")
        ended = await spine.call("wait_for_execution", started["execution_id"], **QUICK)

        assert ended["flow_version"] == "1.0.0"
        assert ended["output_data"] == {"end": {"a": 1}}

    async def test_ask_agents_once(self, spine, agent, name):
        ended = await spine.call("execute_and_wait", name, {"question": "why"}, **QUICK)

        assert ended["output_data"] == {"ask": {"done": "ask"}}
        assert [call.input for call in agent.calls] == [{"question": "why"}]

    async def test_say_what_was_said(self, spine, agent, name):
        ended = await spine.call("execute_and_wait", name, {"question": "why"}, **QUICK)
        execution_id = ended["execution_id"]

        messages = await spine.call("list_messages", execution_id)
        results = await spine.call("get_execution_results", execution_id)

        assert [one["direction"] for one in messages] == ["request", "response"]
        assert messages[0]["content"] == {"question": "why"}
        assert await spine.all("iter_messages", execution_id, page_size=1) == messages
        (result,) = results["node_results"]
        assert NodeResult.from_dict(result).agent_id == name

    async def test_that_fail_say_why(self, spine, agent, name):
        agent.behaviour = says({"status": "error", "error_message": "I cannot do that"})
        started = await spine.call("execute_flow", name, {})

        ended = await spine.call("wait_for_execution", started["execution_id"], **QUICK)
        with pytest.raises(ai_spine.ExecutionError, match="I cannot do that") as raised:
            await spine.call("execute_and_wait", name, {}, **QUICK)

        assert ended["status"] == "failed"
        assert "I cannot do that" in ended["error_message"]
        assert raised.value.details["status"] == "failed"
        assert raised.value.execution_id != started["execution_id"]

    async def test_are_cancelled_for_good(self, spine, agent, name):
        agent.gate.clear()
        started = await spine.call("execute_flow", name, {})
        await until(lambda: agent.open)

        cancelled = await spine.call("cancel_execution", started["execution_id"])
        again = await spine.call("cancel_execution", started["execution_id"])
        ended = await spine.call("wait_for_execution", started["execution_id"], **QUICK)

        await until(lambda: agent.cut)
        assert cancelled["status"] == again["status"] == ended["status"] == "cancelled"

    async def test_that_have_ended_cannot_be_cancelled(self, spine, name):
        await spine.call("create_flow", passing(name))
        ended = await spine.call("execute_and_wait", name, {}, **QUICK)

        with pytest.raises(ai_spine.ConflictError) as raised:
            await spine.call("cancel_execution", ended["execution_id"])
        assert raised.value.error_code == "EXECUTION_NOT_RUNNING"

    async def test_go_on_when_nobody_waits_any_longer(self, spine, agent, name):
        agent.gate.clear()
        started = await spine.call("execute_flow", name, {})

        with pytest.raises(TimeoutError, match=r"after 0\.3 s") as raised:
            await spine.call("wait_for_execution", started["execution_id"], 0.3, 0.05)
        agent.gate.set()
        ended = await spine.call("wait_for_execution", raised.value.execution_id, **QUICK)

        assert ended["status"] == "completed"

    async def test_are_started_once_under_one_name(self, spine, name):
        await spine.call("create_flow", passing(name))

        first = await spine.call("execute_flow", name, {"a": 1}, idempotency_key=name)
        second = await spine.call("execute_flow", name, {"a": 1}, idempotency_key=name)
        with pytest.raises(ai_spine.ConflictError):
            await spine.call("execute_flow", name, {"a": 2}, idempotency_key=name)

        assert first["execution_id"] == second["execution_id"]
        assert len(await spine.call("list_executions", name)) == 1

    async def test_are_listed_the_newest_first(self, spine, name):
        await spine.call("create_flow", passing(name))
        started = [await spine.call("execute_flow", name, {"number": n}) for n in range(5)]
        ids = [one["execution_id"] for one in reversed(started)]

        walked = [e["execution_id"] for e in await spine.all("iter_executions", name, page_size=2)]
        page = await spine.call("list_executions", name, limit=2, offset=1)

        assert walked == ids
        assert [one["execution_id"] for one in page] == ids[1:3]

    async def test_are_listed_by_state(self, spine, name):
        await spine.call("create_flow", passing(name))
        ended = await spine.call("execute_and_wait", name, {}, **QUICK)

        (found,) = await spine.call("list_executions", name, "completed")

        assert found["execution_id"] == ended["execution_id"]
        assert await spine.call("list_executions", name, "failed") == []

    async def test_are_followed_to_their_end(self, spine, agent, name):
        started = await spine.call("execute_flow", name, {})

        events = await spine.all("stream_execution", started["execution_id"], 20)

        assert events[0]["event"] == "status"
        nodes = [event["data"] for event in events if event["event"] == "node"]
        assert nodes[-1]["node_id"] == "ask"
        assert nodes[-1]["status"] == "completed"
        assert events[-1]["event"] == "result"
        assert Execution.from_dict(events[-1]["data"]).is_successful

    async def test_are_followed_from_where_one_was(self, spine, name):
        await spine.call("create_flow", passing(name))
        ended = await spine.call("execute_and_wait", name, {}, **QUICK)
        events = await spine.all("stream_execution", ended["execution_id"])

        rest = await spine.all(
            "stream_execution", ended["execution_id"], last_event_id=events[1]["id"]
        )

        assert rest == events[2:]

    @pytest.mark.parametrize("missing", ["nothing", "01890a5d-ac96-774b-bcce-b302099a8057"])
    async def test_that_are_not_there_are_not_found(self, spine, missing):
        for method in ("get_execution", "cancel_execution", "wait_for_execution", "list_messages"):
            with pytest.raises(ai_spine.NotFoundError):
                await spine.call(method, missing)
        with pytest.raises(ai_spine.NotFoundError):
            await spine.all("stream_execution", missing)

    async def test_of_a_flow_that_is_not_there_are_not_started(self, spine, name):
        with pytest.raises(ai_spine.NotFoundError):
            await spine.call("execute_flow", name, {})


class TestAgents:
    async def test_are_created_found_and_deleted(self, spine, name):
        config = {"agent_id": name, "name": "A", "endpoint": "http://127.0.0.1:9", "token": "hush"}

        created = await spine.call("create_agent", config)

        assert "hush" not in str(created)
        agent = Agent.from_dict(created)
        assert (agent.type, agent.has_token) == ("processor", True)
        assert (await spine.call("get_agent", name))["agent_id"] == name
        for method in ("list_agents", "list_active_agents", "list_my_agents"):
            assert name in [one["agent_id"] for one in await spine.call(method)]
        with pytest.raises(ai_spine.ConflictError):
            await spine.call("create_agent", config)
        assert await spine.call("delete_agent", name) is True
        assert await spine.call("delete_agent", name) is False
        with pytest.raises(ai_spine.NotFoundError):
            await spine.call("get_agent", name)

    async def test_are_tried_before(self, spine):
        async with agent_server() as agent:
            assert (await spine.call("test_agent", agent.url))["connected"] is True
        assert (await spine.call("test_agent", agent.url))["connected"] is False

    async def test_without_an_endpoint_are_refused(self, spine, name):
        with pytest.raises(ai_spine.ValidationError):
            await spine.call("create_agent", {"agent_id": name, "name": "A"})


class TestKey:
    @pytest.mark.parametrize("kind", ["sync", "async"])
    @pytest.mark.parametrize("key", [None, "isk_this-is-no-key-of-anybody"])
    async def test_is_needed(self, kind, server, key):
        async with caller(kind, server, api_key=key) as client:
            assert (await client.call("health_check"))["status"] == "healthy"
            with pytest.raises(ai_spine.AuthenticationError) as raised:
                await client.call("list_flows")

        assert raised.value.status_code == 401
        assert "nobody" not in f"{raised.value!r}{raised.value.details}"


class TestLimits:
    @pytest_asyncio.fixture(loop_scope="module")
    async def limited(self, server, name):
        """Open the client of a new user with a limit."""
        root = server.removesuffix("/spine")

        async def open_limited(kind: str, **limits: int) -> Caller:
            async with httpx.AsyncClient(base_url=f"{root}/api/v1") as web:
                account = {"email": f"{uuid4().hex}@example.org", "password": "long enough"}
                token = (await web.post("/auth/register", json=account)).json()["access_token"]
                own = {"authorization": f"Bearer {token}"}
                user_id = (await web.get("/auth/me", headers=own)).json()["id"]
                path = f"/billing/limits/user/{user_id}"
                (await web.put(path, json=limits, headers=AUTHORIZED)).raise_for_status()
            opened.append(Caller(kind, server, api_key=token))
            return opened[-1]

        opened: list[Caller] = []
        yield open_limited
        for client in opened:
            await client.close()

    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_of_money_end_in_an_error_of_their_own(self, limited, kind):
        client = await limited(kind, budget_nanos=0)

        with pytest.raises(ai_spine.InsufficientCreditsError, match="budget"):
            await client.call("execute_flow", "summarize", {"document": "x"})
        assert await client.call("check_credits") == 0

    @pytest.mark.parametrize("kind", ["sync", "async"])
    async def test_of_requests_are_waited_for_and_then_said(self, limited, kind):
        client = await limited(kind, rpm=0)

        with pytest.raises(ai_spine.RateLimitError) as raised:
            await client.call("execute_flow", "summarize", {"document": "x"})
        assert client.pauses == [raised.value.retry_after] * 3
        assert raised.value.retry_after >= 1
