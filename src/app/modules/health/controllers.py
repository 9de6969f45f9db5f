"""HTTP of health. All of it is public, and none of it may be kept by a cache."""

from litestar import Controller, Response, get
from litestar.datastructures import CacheControlHeader
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from app.kernel.module import Check
from app.modules.health.schemas import HealthRead, LivenessRead, PlatformHealthRead, ReadinessRead
from app.modules.health.service import HealthService

NOT_READY = {
    HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(
        ReadinessRead, generate_examples=False, description="A check has failed."
    )
}


class HealthController(Controller):
    tags = ("health",)
    cache_control = CacheControlHeader(no_store=True)

    @get("/health", summary="Is this process healthy", sync_to_thread=False)
    def health(self, health: NamedDependency[HealthService]) -> HealthRead:
        return HealthRead.of(health.pulse())

    @get("/health/live", summary="Is this process alive", sync_to_thread=False)
    def liveness(self, health: NamedDependency[HealthService]) -> LivenessRead:
        return LivenessRead.of(health.pulse())

    @get("/health/ready", summary="Can requests be served", responses=NOT_READY)
    async def readiness(
        self, health: NamedDependency[HealthService], checks: NamedDependency[dict[str, Check]]
    ) -> Response[ReadinessRead]:
        readiness = await health.readiness(checks)
        status = HTTP_200_OK if readiness.is_ready else HTTP_503_SERVICE_UNAVAILABLE
        return Response(ReadinessRead.of(readiness), status_code=status)

    @get("/api/v1/health", summary="Is the platform healthy", sync_to_thread=False)
    def platform(self, health: NamedDependency[HealthService]) -> PlatformHealthRead:
        return PlatformHealthRead.of(health.pulse())
