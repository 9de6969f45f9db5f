"""``/v1/models``."""

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from app.modules.auth.api import Principal
from app.modules.routing.schemas import ModelList, ModelRead
from app.modules.routing.service.registry import Registry
from app.modules.routing.service.strategies import may_use


class ModelController(Controller):
    path = "/v1/models"
    tags = ("openai",)
    opt = {"scope": "inference"}  # noqa: RUF012 - Litestar reads it as a class attribute

    @get(summary="Models that this key may use")
    async def list(
        self, registry: NamedDependency[Registry], principal: NamedDependency[Principal]
    ) -> ModelList:
        routes = await registry.ready_list()
        return ModelList([ModelRead.of(r) for r in routes if may_use(principal, r)])

    @get("/{model_id:path}", summary="One model")
    async def read(
        self,
        registry: NamedDependency[Registry],
        principal: NamedDependency[Principal],
        model_id: FromPath[str],
    ) -> ModelRead:
        name = model_id.lstrip("/")
        route = await registry.locate(name)
        if not may_use(principal, route):
            raise registry.unknown(name)
        return ModelRead.of(route)
