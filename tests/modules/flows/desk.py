"""A house with flows on, an agent, and a caller who asks it for executions."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from app.asgi import Insula
from app.modules.flows.module import FlowsModule
from tests.house import AUTHORIZED, open_house, prepare
from tests.modules.flows.scripted_agent import ScriptedAgent, agent_server
from tests.waiting import until

FINAL = {"completed", "failed", "cancelled"}


def node(name: str, *after: str, **more: Any) -> dict[str, Any]:
    """A node of the agent ``worker``, unless it says otherwise."""
    does = {} if {"kind", "type"} & more.keys() else {"agent_id": "worker"}
    return {"id": name, "depends_on": list(after), **does, **more}


class Desk:
    """Asks over HTTP, as the owner of the house."""

    def __init__(self, house: Insula, client: httpx.AsyncClient, agent: ScriptedAgent) -> None:
        self.house = house
        self.client = client
        self.agent = agent
        self._names = (f"flow-{number}" for number in itertools.count())

    @property
    def module(self) -> FlowsModule:
        [found] = [one for one in self.house.block.modules if isinstance(one, FlowsModule)]
        return found

    async def tidy(self) -> None:
        """Begin anew: a good agent that nobody has asked, and no other one."""
        self.agent.reset()
        for agent in (await self.done("GET", "/agents"))["agents"]:
            if agent["agent_id"] != "worker":
                await self.done("DELETE", f"/agents/{agent['agent_id']}")

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**AUTHORIZED, **more.pop("headers", {})}
        return await self.client.request(method, f"/spine{path}", headers=headers, **more)

    async def done(self, method: str, path: str, **more: Any) -> Any:
        answer = await self.ask(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json()

    async def register(self, agent_id: str = "worker", **more: Any) -> None:
        wanted = {"agent_id": agent_id, "name": agent_id, "endpoint": self.agent.url, **more}
        await self.done("POST", "/agents", json=wanted)

    async def flow(self, *nodes: dict[str, Any], flow_id: str = "", **more: Any) -> str:
        """A new flow of these nodes; its id."""
        flow_id = flow_id or next(self._names)
        wanted = {"flow_id": flow_id, "name": flow_id, "nodes": list(nodes), **more}
        await self.done("POST", "/flows", json=wanted)
        return flow_id

    async def start(self, flow_id: str, key: str | None = None, **more: Any) -> str:
        """Start an execution; its id."""
        headers = {"idempotency-key": key} if key else {}
        wanted = {"flow_id": flow_id, "input_data": {}, **more}
        return (await self.done("POST", "/flows/execute", json=wanted, headers=headers))[
            "execution_id"
        ]

    async def read(self, execution_id: str) -> Any:
        return await self.done("GET", f"/executions/{execution_id}")

    async def has_begun(self, execution_id: str) -> None:
        """Wait until its first node is noted as being at work."""

        async def is_noted() -> bool:
            return bool((await self.read(execution_id))["node_results"])

        await until(is_noted)

    async def end(self, execution_id: str, within_s: float = 30.0) -> Any:
        """The execution when it has ended."""
        seen: dict[str, Any] = {}

        async def has_ended() -> bool:
            seen.update(await self.read(execution_id))
            return seen["status"] in FINAL

        await until(has_ended, within_s=within_s)
        return seen

    async def run(self, *nodes: dict[str, Any], given: Any = None, **more: Any) -> Any:
        """Run these nodes as a flow; the execution when it has ended."""
        return await self.end(
            await self.start(await self.flow(*nodes), input_data=given or {}, **more)
        )


@asynccontextmanager
async def open_desk(data: Path, **changes: str) -> AsyncIterator[Desk]:
    variables = {"FEATURE_FLOWS": "on", "FEATURE_STORAGE": "off", **changes}
    async with agent_server() as agent, open_house(prepare(data), **variables) as (house, client):
        desk = Desk(house, client, agent)
        await desk.register()
        yield desk
