"""``/agents``: servers that do nodes."""

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK

from app.modules.auth.api import Principal
from app.modules.flows.schemas.agents import (
    AgentCreate,
    AgentList,
    AgentRead,
    AgentRemoved,
    AgentTest,
    AgentTested,
)
from app.modules.flows.service.agents import Agents


class AgentController(Controller):
    path = "/agents"
    tags = ("flows",)

    @get(summary="Your agents")
    async def list(
        self, agents: NamedDependency[Agents], principal: NamedDependency[Principal]
    ) -> AgentList:
        return AgentList.of(await agents.page(principal.user_id), authenticated=True)

    @get("/active", summary="Your agents that flows may use")
    async def list_active(
        self, agents: NamedDependency[Agents], principal: NamedDependency[Principal]
    ) -> AgentList:
        return AgentList.of(await agents.page(principal.user_id, is_active=True))

    @get("/my-agents", summary="Your agents, and who you are")
    async def list_own(
        self, agents: NamedDependency[Agents], principal: NamedDependency[Principal]
    ) -> AgentList:
        return AgentList.of(await agents.page(principal.user_id), user_id=principal.user_id)

    @post(summary="Register an agent")
    async def register(
        self,
        agents: NamedDependency[Agents],
        principal: NamedDependency[Principal],
        data: JSONBody[AgentCreate],
    ) -> AgentRead:
        """It answers `POST {endpoint}/execute` and `GET {endpoint}/health`, and needs a public
        address unless the owner registers it.
        """
        return AgentRead.of(await agents.register(principal, data.wanted))

    @post("/test", status_code=HTTP_200_OK, summary="See whether an agent answers")
    async def test(
        self,
        agents: NamedDependency[Agents],
        principal: NamedDependency[Principal],
        data: JSONBody[AgentTest],
    ) -> AgentTested:
        """Asks for its health, as is done for each registered agent from time to time."""
        return AgentTested(*await agents.test(principal, data.endpoint, data.token))

    @get("/{agent_id:str}", summary="An agent of yours")
    async def read(
        self,
        agents: NamedDependency[Agents],
        principal: NamedDependency[Principal],
        agent_id: FromPath[str],
    ) -> AgentRead:
        return AgentRead.of(await agents.get(principal.user_id, agent_id))

    @delete("/{agent_id:str}", status_code=HTTP_200_OK, summary="Remove an agent of yours")
    async def remove(
        self,
        agents: NamedDependency[Agents],
        principal: NamedDependency[Principal],
        agent_id: FromPath[str],
    ) -> AgentRemoved:
        """Flows that use it can no longer be started."""
        await agents.remove(principal.user_id, agent_id)
        return AgentRemoved(f"The agent {agent_id} is removed.")
