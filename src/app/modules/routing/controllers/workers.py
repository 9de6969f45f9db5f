"""``/api/v1/routing/workers``: servers that register themselves.

The contract of the local agents has ``/register`` and ``/heartbeat`` below its base URL, which is
``/api/v1/routing`` here.
"""

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK

from app.kernel.db import Page
from app.modules.auth.api import Principal
from app.modules.routing.domain.workers import (
    Heartbeat,
    Lease,
    NamedHeartbeat,
    Registration,
    WorkerRead,
)
from app.modules.routing.service.workers import Workers


class WorkerController(Controller):
    path = "/api/v1/routing"
    tags = ("routing",)

    @post(["/workers", "/register"], status_code=HTTP_200_OK, summary="Register a model server")
    async def register(
        self,
        workers: NamedDependency[Workers],
        principal: NamedDependency[Principal],
        data: JSONBody[Registration],
    ) -> Lease:
        """The owner's serves everybody, under its models' names. Another user's serves that user
        alone, as `worker/<name>/<model>`, and needs a public address.
        """
        return await workers.register(principal, data)

    @post("/workers/{name:str}/heartbeat", status_code=HTTP_200_OK, summary="Keep a worker")
    async def beat(
        self,
        workers: NamedDependency[Workers],
        principal: NamedDependency[Principal],
        name: FromPath[str],
        data: JSONBody[Heartbeat],
    ) -> Lease:
        """404 asks the worker to register again."""
        return await workers.beat(principal, name, data.queue_length)

    @post("/heartbeat", status_code=HTTP_200_OK, summary="Keep the worker that the body names")
    async def beat_by_name(
        self,
        workers: NamedDependency[Workers],
        principal: NamedDependency[Principal],
        data: JSONBody[NamedHeartbeat],
    ) -> Lease:
        return await workers.beat(principal, data.name, data.queue_length)

    @get("/workers", summary="Your workers; the owner sees everybody's")
    async def list(
        self, workers: NamedDependency[Workers], principal: NamedDependency[Principal]
    ) -> Page[WorkerRead]:
        return Page(await workers.list(principal))

    @delete("/workers/{name:str}", summary="Drop a worker of yours")
    async def remove(
        self,
        workers: NamedDependency[Workers],
        principal: NamedDependency[Principal],
        name: FromPath[str],
    ) -> None:
        await workers.remove(principal, name)
