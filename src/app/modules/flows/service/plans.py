"""Plans: a flow with the flows that are its nodes, and theirs."""

from collections.abc import Mapping
from typing import Final, TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.errors import NotFound
from app.modules.flows.domain.checks import is_id, task_of
from app.modules.flows.domain.definitions import Flow, FlowInvalid, FlowTask, Plan
from app.modules.flows.domain.versions import VERSION, decode
from app.modules.flows.models import DefinitionRow
from app.modules.flows.repository.flows import FlowRepository
from app.modules.flows.service.installation import Head, Installation
from app.modules.flows.service.recent import Recent

PlanKey: TypeAlias = tuple[UUID, str, str | None]

# Flows inside of flows; a node's path has one part more.
DEPTH_LIMIT: Final = 4
NODES_LIMIT: Final = 500
KEPT_LIMIT: Final = 256
KEPT_LIMIT_BYTES: Final = 16 * 1024 * 1024


class NoSuchFlow(NotFound):
    """Neither the user nor the installation has it, or not in this version."""

    title = "Flow not found"


class Definition(msgspec.Struct, frozen=True):
    """A version of a flow. The installation's have nobody as their owner."""

    id: UUID
    flow: Flow
    is_owned: bool
    size_bytes: int


class Planned(msgspec.Struct, frozen=True):
    """A plan and what it was made of: the installation's files, and for each flow that was looked
    for among the user's, the definition that was found. ``agents`` are those that it needs, each
    with a node that names it.
    """

    plan: Plan
    house: Mapping[str, Head]
    own: dict[str, UUID | None]
    agents: dict[str, str]
    size_bytes: int


class _Place(msgspec.Struct, frozen=True):
    """A flow where it stands: the path of the node that it is, and the flows around it."""

    path: str
    definition: Definition
    around: tuple[tuple[str, bool], ...]

    def path_of(self, node_id: str) -> str:
        return f"{self.path}/{node_id}" if self.path else node_id


class _Wish(msgspec.Struct, frozen=True):
    """A node that is a flow, before the flow is found."""

    path: str
    task: FlowTask
    place: _Place


class Planner:
    def __init__(self, db: Database, installation: Installation) -> None:
        self._db = db
        self._installation = installation
        self._plans: Recent[PlanKey, Planned] = Recent(KEPT_LIMIT, KEPT_LIMIT_BYTES)
        self._definitions: Recent[UUID, Definition] = Recent(KEPT_LIMIT, KEPT_LIMIT_BYTES)

    async def recall(self, user_id: UUID, flow_id: str, version: str | None) -> Planned | None:
        """A plan that was made before; whether it is good still, ``is_current`` tells."""
        return self._former((user_id, flow_id, version), await self._installation.flows())

    async def is_current(self, session: AsyncSession, user_id: UUID, planned: Planned) -> bool:
        """Whether none of its flows has changed, as this transaction sees them."""
        heads = await FlowRepository(session).heads(user_id, planned.own.keys())
        return all(heads.get(flow_id) == found for flow_id, found in planned.own.items())

    async def plan(self, user_id: UUID, flow_id: str, version: str | None) -> Planned:
        """A user's flow, or the installation's. ``NoSuchFlow``; ``FlowInvalid`` for what is inside.

        One that was made before is taken while it is good.
        """
        check_name(flow_id, version)
        key = (user_id, flow_id, version)
        house = await self._installation.flows()
        former = self._former(key, house)
        async with self._db.read() as session:
            if former is not None and await self.is_current(session, user_id, former):
                return former
            search = _Search(FlowRepository(session), user_id, house, self._definitions)
            root = await search.root(flow_id, version)
            planned = await search.planned(root)
        self._plans.put(key, planned, planned.size_bytes)
        return planned

    async def check(self, user_id: UUID, flow: Flow) -> dict[str, str]:
        """``FlowInvalid`` for a flow whose inner flows do not fit; the agents that it needs, as in
        ``Planned``.
        """
        house = await self._installation.flows()
        async with self._db.read() as session:
            search = _Search(FlowRepository(session), user_id, house, self._definitions)
            root = Definition(user_id, flow, is_owned=True, size_bytes=0)
            return (await search.planned(root)).agents

    async def load(self, ids: Mapping[str, UUID]) -> Plan:
        """The plan that an execution has begun with. ``NoSuchFlow`` if it is gone."""
        found = {id_: self._definitions.get(id_) for id_ in ids.values()}
        if missing := [id_ for id_, definition in found.items() if definition is None]:
            async with self._db.read() as session:
                for row in await FlowRepository(session).definitions(missing):
                    found[row.id] = kept(self._definitions, row)
        flows = {path: definition.flow for path, id_ in ids.items() if (definition := found[id_])}
        if len(flows) < len(ids):
            raise NoSuchFlow("A flow that this execution has begun with is gone.")
        inner = {path: flow for path, flow in flows.items() if path}
        return Plan(flows[""], inner, dict(ids))

    def _former(self, key: PlanKey, house: Mapping[str, Head]) -> Planned | None:
        former = self._plans.get(key)
        return former if former is not None and former.house is house else None


class _Search:
    """Finds the flows that a flow consists of, all of one depth at once.

    A user's flow has the user's flows in it, and the installation's where the user has none of that
    id; a flow of the installation has only its own kind.
    """

    def __init__(
        self,
        repository: FlowRepository,
        user_id: UUID,
        house: Mapping[str, Head],
        known: Recent[UUID, Definition],
    ) -> None:
        self._repository = repository
        self._user_id = user_id
        self._house = house
        self._known = known
        self._own: dict[str, UUID | None] = {}

    async def root(self, flow_id: str, version: str | None) -> Definition:
        await self._look([flow_id])
        found = await self._find(flow_id, version, is_owned=True)
        if found is None:
            raise no_such_flow(flow_id, version)
        return found

    async def planned(self, root: Definition) -> Planned:
        """``FlowInvalid`` names the node by its path."""
        places = [_Place("", root, ((root.flow.flow_id, root.is_owned),))]
        level = places
        for _ in range(DEPTH_LIMIT):
            level = await self._inside(level)
            places += level
            _check_nodes(places)
        if wishes := _wishes(level):
            raise _refusal(wishes[0].path, f"is a flow in more than {DEPTH_LIMIT} flows")
        return self._whole(places)

    async def _inside(self, level: list[_Place]) -> list[_Place]:
        wishes = _wishes(level)
        await self._look([wish.task.flow_id for wish in wishes if wish.place.definition.is_owned])
        return [await self._granted(wish) for wish in wishes]

    async def _granted(self, wish: _Wish) -> _Place:
        task, place = wish.task, wish.place
        is_owned = place.definition.is_owned
        found = await self._find(task.flow_id, task.version, is_owned=is_owned)
        if found is None:
            shown = task.flow_id if task.version is None else f"{task.flow_id} {task.version}"
            raise _refusal(wish.path, f"is the flow {shown!r}, which is not there")
        name = (found.flow.flow_id, found.is_owned)
        if name in place.around:
            way = [flow_id for flow_id, _ in (*place.around, name)]
            raise _refusal(wish.path, f"goes round: {' -> '.join(way)}", cycle=way[:-1])
        return _Place(wish.path, found, (*place.around, name))

    async def _look(self, flow_ids: list[str]) -> None:
        """Find out which of them the user has."""
        if new := set(flow_ids) - self._own.keys():
            heads = await self._repository.heads(self._user_id, new)
            self._own |= {flow_id: heads.get(flow_id) for flow_id in new}

    async def _find(
        self, flow_id: str, version: str | None, *, is_owned: bool
    ) -> Definition | None:
        own = self._own[flow_id] if is_owned else None
        head = self._house.get(flow_id)
        if own is not None:
            return await self._version(self._user_id, own, flow_id, version)
        if head is None:
            return None
        if version in (None, head.stored.flow.version):
            return Definition(
                head.definition_id, head.stored.flow, is_owned=False, size_bytes=head.size_bytes
            )
        return await self._version(None, head.definition_id, flow_id, version)

    async def _version(
        self, user_id: UUID | None, newest: UUID, flow_id: str, version: str | None
    ) -> Definition | None:
        if version is not None:
            row = await self._repository.definition(user_id, flow_id, version)
            return None if row is None else kept(self._known, row)
        found = self._known.get(newest)
        if found is None:
            [row] = await self._repository.definitions([newest])
            found = kept(self._known, row)
        return found

    def _whole(self, places: list[_Place]) -> Planned:
        agents: dict[str, str] = {}
        for place in places:
            for node in place.definition.flow.nodes:
                if node.work == "agent" and node.agent_id is not None:
                    agents.setdefault(node.agent_id, place.path_of(node.id))
        found = {place.path: place.definition for place in places}
        inner = {path: definition.flow for path, definition in found.items() if path}
        ids = {path: definition.id for path, definition in found.items()}
        size_bytes = sum(definition.size_bytes for definition in found.values())
        plan = Plan(found[""].flow, inner, ids)
        return Planned(plan, self._house, self._own, agents, size_bytes)


def check_name(flow_id: str, version: str | None = None) -> None:
    """``NoSuchFlow`` for what is no flow's id, or no version: nobody need be asked."""
    if not is_id(flow_id) or (version is not None and VERSION.fullmatch(version) is None):
        raise no_such_flow(flow_id, version)


def no_such_flow(flow_id: str, version: str | None = None) -> NoSuchFlow:
    shown = f"{flow_id[:100]!r}" + (f" in version {version[:32]!r}" if version else "")
    return NoSuchFlow(f"There is no flow {shown}; GET /flows lists them.")


def kept(known: Recent[UUID, Definition], row: DefinitionRow) -> Definition:
    """Read a definition once, as long as it is asked for."""
    found = known.get(row.id)
    if found is None:
        is_owned = row.user_id is not None
        size_bytes = len(row.body)
        found = Definition(row.id, decode(row.body), is_owned=is_owned, size_bytes=size_bytes)
        known.put(row.id, found, size_bytes)
    return found


def _wishes(level: list[_Place]) -> list[_Wish]:
    return [
        _Wish(place.path_of(node.id), task, place)
        for place in level
        for node in place.definition.flow.nodes
        if isinstance(task := task_of(node), FlowTask)
    ]


def _check_nodes(places: list[_Place]) -> None:
    total = 0
    for place in places:
        total += len(place.definition.flow.nodes)
        if total > NODES_LIMIT:
            raise _refusal(place.path, f"makes it more than {NODES_LIMIT} nodes, inner ones too")


def _refusal(path: str, why: str, **extra: object) -> FlowInvalid:
    return FlowInvalid(f"Node {path!r}: {why}.", node=path, **extra)
