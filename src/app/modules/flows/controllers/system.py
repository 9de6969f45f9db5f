"""``/spine/health``, ``/spine/metrics``, ``/spine/status`` and ``/spine/users/me``."""

from litestar import Controller, get
from litestar.datastructures import CacheControlHeader
from litestar.di import NamedDependency

from app.modules.auth.api import Principal
from app.modules.flows.schemas.system import (
    DetailedHealthRead,
    HealthRead,
    MetricsRead,
    StatusRead,
    UserRead,
)
from app.modules.flows.service.agents import Agents
from app.modules.flows.service.flows import Flows
from app.modules.flows.service.system import System
from app.modules.flows.service.views import Views


class SystemController(Controller):
    tags = ("flows",)
    cache_control = CacheControlHeader(no_store=True)

    @get("/health", summary="Are flows served", sync_to_thread=False)
    def health(self, flow_system: NamedDependency[System]) -> HealthRead:
        pulse = flow_system.pulse()
        return HealthRead(pulse.version, pulse.at, pulse.uptime_s)

    @get("/health/detailed", summary="Are flows served, and what do they rest on")
    async def detailed(
        self,
        principal: NamedDependency[Principal],  # noqa: ARG002 - it is not for everybody
        flow_system: NamedDependency[System],
    ) -> DetailedHealthRead:
        pulse = flow_system.pulse()
        is_up = await flow_system.has_database()
        return DetailedHealthRead(
            pulse.at,
            "connected" if is_up else "unreachable",
            "embedded" if pulse.is_embedded else "cluster",
            "healthy" if is_up else "unhealthy",
        )

    @get("/metrics", summary="Your executions in numbers")
    async def metrics(
        self,
        principal: NamedDependency[Principal],
        flow_system: NamedDependency[System],
        execution_views: NamedDependency[Views],
        flows: NamedDependency[Flows],
        agents: NamedDependency[Agents],
    ) -> MetricsRead:
        """Of the executions that are kept, which `RUNS_KEEP_HOURS` decides."""
        tally = await execution_views.tally(principal.user_id)
        flow_count = await flows.tally(principal.user_id)
        agent_count, _ = await agents.tally(principal.user_id)
        return MetricsRead.of(tally, flow_system.pulse().at, flow_count, agent_count)

    @get("/status", summary="What is at work")
    async def status(
        self,
        principal: NamedDependency[Principal],
        flows: NamedDependency[Flows],
        agents: NamedDependency[Agents],
    ) -> StatusRead:
        total, active = await agents.tally(principal.user_id)
        flow_count = await flows.tally(principal.user_id)
        return StatusRead({"total": total, "active": active}, {"total": flow_count})

    @get("/users/me", summary="Who you are, and what is left to you")
    async def me(
        self, principal: NamedDependency[Principal], flow_system: NamedDependency[System]
    ) -> UserRead:
        return UserRead.of(*await flow_system.account(principal))
