"""``/sandbox/projects``: what scripts find when they run, and whether it is up."""

from litestar import Controller, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK

from app.modules.auth.api import Principal
from app.modules.sandbox.domain.projects import Entry
from app.modules.sandbox.schemas.projects import (
    PoolRead,
    PoolUp,
    ProjectList,
    ProjectPut,
    ProjectRead,
)
from app.modules.sandbox.service.pools import Pools
from app.modules.sandbox.service.projects import Projects


class ProjectController(Controller):
    path = "/projects"
    tags = ("sandbox",)

    @get(summary="Every project, and how it is")
    async def list(
        self,
        projects: NamedDependency[Projects],
        pools: NamedDependency[Pools],
        principal: NamedDependency[Principal],  # noqa: ARG002 - who has none learns nothing
    ) -> ProjectList:
        return ProjectList([_read(pools, entry) for entry in await projects.all()])

    @get("/{name:str}", summary="A project")
    async def read(
        self,
        projects: NamedDependency[Projects],
        pools: NamedDependency[Pools],
        principal: NamedDependency[Principal],  # noqa: ARG002 - who has none learns nothing
        name: FromPath[str],
    ) -> ProjectRead:
        return _read(pools, await projects.find(name))

    @put("/{name:str}", summary="Make or change a project")
    async def put(
        self,
        projects: NamedDependency[Projects],
        pools: NamedDependency[Pools],
        principal: NamedDependency[Principal],
        name: FromPath[str],
        data: JSONBody[ProjectPut],
    ) -> ProjectRead:
        """Its workers stay what they are until it is brought up again."""
        return _read(pools, await projects.put(principal, name, data.document))

    @delete("/{name:str}", summary="Remove a project that is down")
    async def remove(
        self,
        projects: NamedDependency[Projects],
        principal: NamedDependency[Principal],
        name: FromPath[str],
    ) -> None:
        await projects.remove(principal, name)

    @post("/{name:str}/up", status_code=HTTP_200_OK, summary="Keep workers of a project ready")
    async def up(
        self,
        projects: NamedDependency[Projects],
        pools: NamedDependency[Pools],
        principal: NamedDependency[Principal],
        name: FromPath[str],
        data: JSONBody[PoolUp],
    ) -> PoolRead:
        """Installs its packages first. What is up stays up when its new version cannot be made."""
        await pools.up(await projects.operated(principal, name), data.count)
        return _pool(pools, name)

    @post("/{name:str}/down", status_code=HTTP_200_OK, summary="Take a project down")
    async def down(
        self,
        projects: NamedDependency[Projects],
        pools: NamedDependency[Pools],
        principal: NamedDependency[Principal],
        name: FromPath[str],
    ) -> PoolRead:
        """What is running, or waits, is finished."""
        await projects.require_operator(principal, name)
        await pools.down(name)
        return _pool(pools, name)


def _read(pools: Pools, entry: Entry) -> ProjectRead:
    state = pools.state(entry.name)
    return ProjectRead.of(
        entry,
        status=state.status,
        replicas=state.replicas,
        idle_workers=state.idle_workers,
        error=state.error,
    )


def _pool(pools: Pools, name: str) -> PoolRead:
    state = pools.state(name)
    return PoolRead(name, state.status, state.replicas)
