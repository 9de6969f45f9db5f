"""``/sandbox/health`` and ``/sandbox/capabilities``."""

from litestar import Controller, get
from litestar.di import NamedDependency

from app.modules.auth.api import Principal
from app.modules.sandbox.schemas.about import CapabilitiesRead, HealthRead
from app.modules.sandbox.service.pools import Pools


class AboutController(Controller):
    tags = ("sandbox",)

    @get("/health", summary="Whether the sandbox answers")
    async def health(self) -> HealthRead:
        return HealthRead()

    @get("/capabilities", summary="How scripts are isolated here, and what they may use")
    async def capabilities(
        self,
        principal: NamedDependency[Principal],  # noqa: ARG002 - who has none learns nothing
        pools: NamedDependency[Pools],
    ) -> CapabilitiesRead:
        return CapabilitiesRead.of(await pools.capabilities())
