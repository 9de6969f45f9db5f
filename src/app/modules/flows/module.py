"""Flows: graphs of agents, models and scripts, each node done once, also after a crash.

Routes, below ``/spine`` (``FLOWS_PREFIX`` moves them) and a second time below ``/spine/api/v1``:
``GET``, ``POST /flows``; ``GET /flows/my-flows``; ``GET``, ``PUT``, ``DELETE /flows/{id}``;
``GET /flows/{id}/versions``; ``POST /flows/execute``; ``GET /executions``, ``/executions/{id}`` and
below it ``results``, ``messages``, ``events`` (SSE, also ``stream``); ``GET /messages/{id}``;
``POST /executions/{id}/cancel``; ``GET``, ``POST /agents``; ``GET /agents/active``,
``/agents/my-agents``; ``GET``, ``DELETE /agents/{id}``; ``POST /agents/test``; ``GET /health``,
``/health/detailed``, ``/metrics``, ``/status``, ``/users/me``. Tables: ``flows_flows``,
``flows_definitions``, ``flows_agents``, ``flows_executions``, ``flows_nodes``.

An execution is a run of the house: pending, running, then completed, failed or cancelled; what the
house calls timed out, interrupted or unknown has failed here, and its error code says which. A
node is running, then completed, failed or skipped; what it gave is written in the transaction that
begins the next ones. After a crash finished nodes are not done again; one at work is, unless it may
not be done twice: then the execution ends as unknown. A version of a flow is never changed.
"""

import asyncio

from litestar import Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from app.kernel.module import Kit, Module, always, known
from app.kernel.problems import Renderer
from app.modules.auth.api import Profiles
from app.modules.billing.api import Tiers
from app.modules.flows.adapters import open_files, open_outlet, open_seal
from app.modules.flows.controllers import (
    AgentController,
    ExecutionController,
    FlowController,
    SystemController,
)
from app.modules.flows.models import AgentRow, DefinitionRow, ExecutionRow, FlowRow, NodeRow
from app.modules.flows.schemas.problems import spine_error
from app.modules.flows.service.agents import Agents
from app.modules.flows.service.engine import Engine
from app.modules.flows.service.executions import Executions
from app.modules.flows.service.flows import Flows
from app.modules.flows.service.places import Places
from app.modules.flows.service.system import System
from app.modules.flows.service.views import Views
from app.modules.flows.service.works import AgentWork, CodeWork, LlmWork
from app.modules.flows.settings import FlowSettings
from app.modules.routing.api import Completions
from app.modules.runs.api import RunLog, Runs
from app.modules.sandbox.api import Scripts

# Executions that one process has in its hands: most of them wait for an agent or a model.
BODY_LIMIT_BYTES = 2 * 2**20
TWIN = "/api/v1"


class FlowsModule(Module):
    name = "flows"
    settings_type = FlowSettings
    models = (AgentRow, DefinitionRow, ExecutionRow, FlowRow, NodeRow)

    def __init__(self, settings: FlowSettings, kit: Kit) -> None:
        self._prefix = settings.prefix.rstrip("/")
        db, clock, runs, tiers = kit.db, kit.clock, kit.use(Runs), kit.use(Tiers)
        self._outlet = open_outlet(settings)
        self.agents = Agents(
            db, open_seal(kit), self._outlet, clock, every_s=settings.health_every_s
        )
        self.flows = Flows(db, open_files(settings, kit), self.agents)
        self._code = CodeWork(kit.find(Scripts))
        self.engine = Engine(
            db,
            clock,
            self.flows,
            {
                "agent": AgentWork(self.agents),
                "llm": LlmWork(kit.find(Completions)),
                "code": self._code,
            },
            Places(settings.parallel_nodes),
            kit.cache,
        )
        self.executions = Executions(db, runs, self.flows, self.engine, tiers)
        self.views = Views(db, runs, kit.use(RunLog), self.flows)
        self.system = System(db, clock, kit.house.version, kit.use(Profiles), tiers)
        runs.offer(self.engine.kind)
        self._watch: asyncio.Task[None] | None = None

    def handlers(self) -> tuple[ControllerRouterHandler, ...]:
        controllers = [AgentController, ExecutionController, FlowController, SystemController]
        paths = (self._prefix or "/", self._prefix + TWIN)
        return tuple(Router(path, route_handlers=controllers) for path in paths)

    def dependencies(self) -> dict[str, Provide]:
        return {
            "agents": known(self.agents),
            "execution_views": known(self.views),
            "flow_executions": known(self.executions),
            "flow_system": always(self.system),
            "flows": known(self.flows),
        }

    def dialects(self) -> dict[str, Renderer]:
        return {f"{self._prefix}/": spine_error}

    def body_limits(self) -> dict[str, int]:
        return {f"{self._prefix}/": BODY_LIMIT_BYTES}

    async def open(self) -> None:
        await self.flows.open()
        self._watch = asyncio.create_task(self.agents.watch(), name="flows-agents")

    async def close(self) -> None:
        self._code.is_closing = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._outlet.close()
