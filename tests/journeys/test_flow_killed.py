"""A server that is killed in the middle of flows goes on with them, and does nothing twice."""

from collections import Counter
from contextlib import suppress

import httpx
import pytest

from tests.house import AUTHORIZED, RunningServer, prepare
from tests.modules.flows.desk import node
from tests.modules.flows.scripted_agent import agent_server
from tests.waiting import until

pytestmark = pytest.mark.slow

NODES = 10
STOPS_AT = 6


def chain(flow_id):
    """Ten nodes, each waiting for the one before."""
    names = [f"n{number}" for number in range(NODES)]
    nodes = [node(name, *names[max(0, at - 1) : at]) for at, name in enumerate(names)]
    return {"flow_id": flow_id, "name": flow_id, "nodes": nodes}


@pytest.fixture
async def server(tmp_path):
    server = RunningServer(prepare(tmp_path / "data"), FEATURE_FLOWS="on")
    await server.start()
    yield server
    server.stop()


class Caller:
    def __init__(self, client):
        self._client = client

    async def done(self, method, path, body=None):
        answer = await self._client.request(method, f"/spine{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def ended(self, execution_id):
        async def found():
            # While the server comes back, nobody answers.
            with suppress(httpx.TransportError):
                read = await self.done("GET", f"/executions/{execution_id}")
                return read if read["status"] in {"completed", "failed"} else None

        return await until(found, within_s=60)


class TestKill:
    @pytest.mark.parametrize("is_idempotent", [True, False])
    async def test_finished_nodes_are_not_done_again(self, server, is_idempotent):
        async with (
            agent_server() as agent,
            httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED, timeout=30) as client,
        ):
            caller = Caller(client)
            worker = {"agent_id": "worker", "name": "Worker", "endpoint": agent.url}
            await caller.done("POST", "/agents", {**worker, "is_idempotent": is_idempotent})
            await caller.done("POST", "/flows", chain("chain"))
            agent.answer = lambda call: _hold(agent, call)
            started = await caller.done("POST", "/flows/execute", {"flow_id": "chain"})
            await until(lambda: len(agent.calls) == STOPS_AT, within_s=30)

            server.kill()
            agent.gate.set()
            await server.start()
            ended = await caller.ended(started["execution_id"])

        before = {f"n{number}" for number in range(STOPS_AT - 1)}
        counts = Counter(call.node_id for call in agent.calls)
        assert {counts[name] for name in before} == {1}
        if is_idempotent:
            assert ended["output_data"] == {f"n{NODES - 1}": {"done": f"n{NODES - 1}"}}
            assert counts[f"n{STOPS_AT - 1}"] == 2
        else:
            assert (ended["status"], ended["error_code"]) == ("failed", "process_gone")
            assert counts[f"n{STOPS_AT - 1}"] == 1
            assert len(counts) == STOPS_AT


async def _hold(agent, call):
    """Answer at once, but for the call in whose middle the server is killed."""
    if len(agent.calls) == STOPS_AT:
        agent.gate.clear()
        await agent.gate.wait()
    return {"done": call.node_id}
