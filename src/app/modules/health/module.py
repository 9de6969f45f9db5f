"""Health: is this process alive, is it ready, what is it doing.

Routes: ``GET /health``, ``/health/live``, ``/health/ready`` and ``/api/v1/health``. Exports
``MetricsPage``: who may read it is for ``auth`` to decide, which has the route.
"""

from litestar.di import Provide

from app.kernel.module import Kit, Module, always
from app.modules.health.adapters import open_metrics
from app.modules.health.api import MetricsPage
from app.modules.health.controllers import HealthController
from app.modules.health.service import HealthService
from app.modules.health.settings import HealthSettings


class HealthModule(Module):
    name = "health"
    settings_type = HealthSettings
    routes = (HealthController,)

    def __init__(self, settings: HealthSettings, kit: Kit) -> None:
        self.page = open_metrics(settings.multiproc_dir)
        self.service = HealthService(kit.house.version, kit.clock, settings.check_timeout_s)

    def exports(self) -> dict[type, object]:
        return {MetricsPage: self.page}

    def dependencies(self) -> dict[str, Provide]:
        return {"health": always(self.service)}
