"""``/flows``: graphs of nodes, version by version."""

from typing import Annotated, Any, Final, TypeAlias

from litestar import Controller, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg, FromPath, FromQuery, QueryParameter
from litestar.status_codes import HTTP_200_OK

from app.modules.auth.api import Principal
from app.modules.flows.domain.checks import parse_flow
from app.modules.flows.schemas.flows import FlowDeleted, FlowList, FlowRead, VersionList
from app.modules.flows.service.flows import Flows

MAX_PAGE: Final = 100
MAX_OFFSET: Final = 1_000_000
EXAMPLE: Final = {
    "flow_id": "greet",
    "name": "Greet",
    "nodes": [
        {"id": "greeting", "kind": "llm", "config": {"prompt": "Say hello to {name}."}},
        {"id": "answer", "type": "output", "depends_on": ["greeting"]},
    ],
}

Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)]
Offset: TypeAlias = Annotated[int, QueryParameter(ge=0, le=MAX_OFFSET)]
# Read as it is: what is wrong with a node is said of that node, by its id.
Document: TypeAlias = Annotated[
    dict[str, Any],
    BodyKwarg(
        title="Flow",
        description="`flow_id`, `name`, `nodes`, and, where they are wanted, `description`, "
        "`version`, `entry_point`, `exit_points`, `metadata`.",
        examples=[Example(value=EXAMPLE)],
    ),
]


class FlowController(Controller):
    path = "/flows"
    tags = ("flows",)

    @get(summary="Your flows and the installation's")
    async def list(
        self,
        flows: NamedDependency[Flows],
        principal: NamedDependency[Principal],
        limit: Limit = MAX_PAGE,
        offset: Offset = 0,
    ) -> FlowList:
        return FlowList.of(await flows.page(principal.user_id, limit=limit, offset=offset))

    @get("/my-flows", summary="Your flows, and who you are")
    async def list_own(
        self,
        flows: NamedDependency[Flows],
        principal: NamedDependency[Principal],
        limit: Limit = MAX_PAGE,
        offset: Offset = 0,
    ) -> FlowList:
        user_id = principal.user_id
        found = await flows.page(user_id, limit=limit, offset=offset, is_own=True)
        return FlowList.of(found, user_id)

    @post(summary="Make a flow")
    async def create(
        self,
        flows: NamedDependency[Flows],
        principal: NamedDependency[Principal],
        data: Document,
    ) -> FlowRead:
        """What could not run is refused, with the node that is the reason."""
        return FlowRead.of(await flows.create(principal.user_id, parse_flow(data)))

    @get("/{flow_id:str}", summary="A flow, as it is or was")
    async def read(
        self,
        flows: NamedDependency[Flows],
        principal: NamedDependency[Principal],
        flow_id: FromPath[str],
        version: FromQuery[str | None] = None,
    ) -> FlowRead:
        return FlowRead.of(await flows.get(principal.user_id, flow_id, version))

    @get("/{flow_id:str}/versions", summary="Every version of a flow")
    async def versions(
        self,
        flows: NamedDependency[Flows],
        principal: NamedDependency[Principal],
        flow_id: FromPath[str],
    ) -> VersionList:
        return VersionList.of(await flows.versions(principal.user_id, flow_id))

    @put("/{flow_id:str}", summary="Change a flow")
    async def change(
        self,
        flows: NamedDependency[Flows],
        principal: NamedDependency[Principal],
        flow_id: FromPath[str],
        data: Document,
    ) -> FlowRead:
        """Writes a new version; members that are not given stay. Executions go on with theirs."""
        return FlowRead.of(await flows.change(principal.user_id, flow_id, data))

    @delete("/{flow_id:str}", status_code=HTTP_200_OK, summary="Delete a flow")
    async def remove(
        self,
        flows: NamedDependency[Flows],
        principal: NamedDependency[Principal],
        flow_id: FromPath[str],
    ) -> FlowDeleted:
        """Executions that have begun go on."""
        await flows.delete(principal.user_id, flow_id)
        return FlowDeleted(f"The flow {flow_id} is deleted.")
