"""HTTP of the metrics: the numbers are health's, who may read them is decided here."""

import asyncio

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.types import Scope

from app.kernel.errors import Forbidden
from app.modules.auth.api import Authenticator, bearer_token
from app.modules.auth.controllers.caller import is_local
from app.modules.health.api import MetricsPage


class OwnerOnly(Forbidden):
    """The numbers of the whole house are its owner's."""

    title = "Owner only"


class MetricsDoor:
    """Open to processes of this machine; anybody else needs a key of the owner for it."""

    def __init__(self, authenticator: Authenticator, page: MetricsPage) -> None:
        self._authenticator = authenticator
        self.page = page

    async def admit(self, scope: Scope) -> None:
        if is_local(scope):
            return
        token = bearer_token(list(scope["headers"]))
        found = self._authenticator.recall(token)
        principal = found or await self._authenticator.authenticate(token)
        principal.require("metrics")
        if principal.role != "owner":
            raise OwnerOnly("Only the owner of this house reads its metrics.")


@get("/metrics", summary="Prometheus metrics", tags=("health",), media_type="text/plain")
async def metrics(scope: Scope, metrics_door: NamedDependency[MetricsDoor]) -> Response[bytes]:
    """Open to processes of this machine; anybody else needs the owner's key, scope `metrics`."""
    await metrics_door.admit(scope)
    body = await asyncio.to_thread(metrics_door.page.render)
    return Response(body, media_type=metrics_door.page.media_type)
