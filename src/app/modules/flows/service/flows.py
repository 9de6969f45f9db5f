"""Flows: the installation's, of files, and those that users have made.

Where a user and the installation have a flow of the same id, the user's is meant.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.errors import Conflict, Forbidden, Invalid
from app.modules.flows.domain.checks import entry_of, exits_of, parse_flow
from app.modules.flows.domain.definitions import Flow, FlowInvalid, Plan
from app.modules.flows.domain.versions import Stored, Version, decode, next_version, rank
from app.modules.flows.models import DefinitionRow, FlowRow
from app.modules.flows.ports import FlowFiles
from app.modules.flows.repository.flows import FlowRepository
from app.modules.flows.service.installation import Head, Installation
from app.modules.flows.service.plans import Planned, Planner, check_name, no_such_flow

FLOWS_LIMIT: Final = 1000
VERSIONS_LIMIT: Final = 1000


class FlowTaken(Conflict):
    """There is a flow of this id."""

    title = "Flow taken"


class NotYours(Forbidden):
    """The installation's flows are files, which its operator changes."""

    title = "Not yours"


class IdMismatch(Invalid):
    """A flow keeps its id."""

    title = "Id mismatch"


class TooManyFlows(Conflict):
    """The user has as many flows as a user may have."""

    title = "Too many flows"


class TooManyVersions(Conflict):
    """The flow has been changed as often as a flow may be."""

    title = "Too many versions"


class KnownAgents(Protocol):
    """Who could do a node."""

    async def known(self, user_id: UUID, agent_ids: Collection[str]) -> frozenset[str]:
        """Those of the agents that the user has registered and that are active."""
        ...


class Flows:
    def __init__(self, db: Database, files: FlowFiles, agents: KnownAgents) -> None:
        self._db = db
        self._agents = agents
        self._installation = Installation(db, files)
        self._planner = Planner(db, self._installation)

    async def open(self) -> None:
        """Write down what the files say. Later changes are seen by whoever asks."""
        await self._installation.flows()

    async def create(self, user_id: UUID, flow: Flow) -> Stored:
        """Keep a checked flow as a user's. ``FlowTaken``, ``TooManyFlows``; ``FlowInvalid`` for an
        agent, or a flow as a node, that is not there.

        One that was deleted may be made again, in a version above all it had.
        """
        if flow.flow_id in await self._installation.flows():
            raise _taken(flow.flow_id)
        await self._check(user_id, flow)
        async with self._db.begin() as session:
            flows = FlowRepository(session)
            if await flows.count(user_id) >= FLOWS_LIMIT:
                raise TooManyFlows(f"You have {FLOWS_LIMIT} flows. Delete one first.")
            former = await flows.lock(user_id, flow.flow_id)
            if former is not None:
                return await _revived(flows, former, flow)
            [definition] = await flows.write(user_id, [flow])
            if not await flows.add(user_id, definition):
                raise _taken(flow.flow_id)
        return Stored(flow, "api", user_id, definition.created_at, definition.created_at)

    async def change(self, user_id: UUID, flow_id: str, changes: Mapping[str, Any]) -> Stored:
        """Write a new version, in which members that are given take the place of those that were.

        Of changes at the same time each makes a version, and each stands on the one before.
        ``NoSuchFlow``, ``NotYours``, ``IdMismatch``, ``FlowInvalid``, ``TooManyVersions``.
        """
        if changes.get("flow_id", flow_id) != flow_id:
            raise IdMismatch(f"This is the flow {flow_id!r}, and stays it; leave flow_id out.")
        _, current = await self._owned(user_id, flow_id)
        if "nodes" in changes:
            await self._check(user_id, _changed(decode(current.body), changes))
        async with self._db.begin() as session:
            flows = FlowRepository(session)
            row = await flows.lock(user_id, flow_id)
            if row is None or not row.is_active:
                raise no_such_flow(flow_id)
            [newest] = await flows.definitions([row.definition_id])
            flow = _changed(decode(newest.body), changes)
            return await _raised(flows, row, flow, newest.version)

    async def delete(self, user_id: UUID, flow_id: str) -> None:
        """Its versions stay for the executions that ran them. ``NoSuchFlow``, ``NotYours``."""
        await self._owned(user_id, flow_id)
        async with self._db.begin() as session:
            row = await FlowRepository(session).lock(user_id, flow_id)
            if row is None or not row.is_active:
                raise no_such_flow(flow_id)
            row.is_active = False

    async def get(self, user_id: UUID, flow_id: str, version: str | None = None) -> Stored:
        """``NoSuchFlow``, also for a version that is not there."""
        check_name(flow_id, version)
        house = await self._installation.flows()
        async with self._db.read() as session:
            flows = FlowRepository(session)
            found = await flows.find(user_id, flow_id)
            if found is None and flow_id not in house:
                raise no_such_flow(flow_id)
            newest = house[flow_id].stored if found is None else _stored(*found)
            if version in (None, newest.flow.version):
                return newest
            definition = await flows.definition(newest.created_by, flow_id, version)
        if definition is None:
            raise no_such_flow(flow_id, version)
        return _version(definition, newest.created_at)

    async def page(
        self, user_id: UUID, *, limit: int, offset: int, is_own: bool = False
    ) -> tuple[list[Stored], int]:
        """The user's flows by id, then the installation's by id; and how many there are."""
        house: Mapping[str, Head] = {} if is_own else await self._installation.flows()
        async with self._db.read() as session:
            flows = FlowRepository(session)
            count = await flows.count(user_id)
            hidden = await flows.heads(user_id, list(house))
            rows = await flows.page(user_id, limit=limit, offset=offset)
        theirs = [house[flow_id].stored for flow_id in sorted(house.keys() - hidden.keys())]
        begin = max(0, offset - count)
        rest = theirs[begin : begin + limit - len(rows)]
        return [_stored(*row) for row in rows] + rest, count + len(theirs)

    async def versions(self, user_id: UUID, flow_id: str) -> list[Version]:
        """The highest first, those before a deletion too. ``NoSuchFlow``."""
        check_name(flow_id)
        house = await self._installation.flows()
        async with self._db.read() as session:
            flows = FlowRepository(session)
            found = await flows.find(user_id, flow_id)
            if found is None and flow_id not in house:
                raise no_such_flow(flow_id)
            owner = None if found is None else user_id
            written = await flows.versions(owner, flow_id, VERSIONS_LIMIT)
        # A file may have said different things in the same version; what came last counts.
        newest = {one.version: one for one in reversed(written)}
        return sorted(newest.values(), key=lambda one: rank(one.version), reverse=True)

    async def tally(self, user_id: UUID) -> int:
        """How many flows the user sees."""
        house = await self._installation.flows()
        async with self._db.read() as session:
            flows = FlowRepository(session)
            hidden = await flows.heads(user_id, list(house))
            return await flows.count(user_id) + len(house) - len(hidden)

    async def plan(self, user_id: UUID, flow_id: str, version: str | None) -> Plan:
        """What an execution would run now. ``NoSuchFlow``; ``FlowInvalid`` names the node whose
        flow or agent is not there.
        """
        planned = await self._planner.plan(user_id, flow_id, version)
        await self._check_agents(user_id, planned.agents)
        return planned.plan

    async def recall(self, user_id: UUID, flow_id: str, version: str | None) -> Planned | None:
        """What one would have run when this was looked up last; ``is_current`` tells whether it
        would still. ``FlowInvalid`` for an agent that is not there any more.
        """
        planned = await self._planner.recall(user_id, flow_id, version)
        if planned is not None:
            await self._check_agents(user_id, planned.agents)
        return planned

    async def is_current(self, session: AsyncSession, user_id: UUID, planned: Planned) -> bool:
        """Whether an execution that starts in this transaction would run this."""
        return await self._planner.is_current(session, user_id, planned)

    async def load(self, ids: Mapping[str, UUID]) -> Plan:
        """The plan with these definitions, whatever has become of the flows since."""
        return await self._planner.load(ids)

    async def _owned(self, user_id: UUID, flow_id: str) -> tuple[FlowRow, DefinitionRow]:
        check_name(flow_id)
        async with self._db.read() as session:
            found = await FlowRepository(session).find(user_id, flow_id)
        if found is not None:
            return found
        if flow_id in await self._installation.flows():
            text = f"The flow {flow_id!r} is the installation's; create one of your own."
            raise NotYours(text)
        raise no_such_flow(flow_id)

    async def _check(self, user_id: UUID, flow: Flow) -> None:
        await self._check_agents(user_id, await self._planner.check(user_id, flow))

    async def _check_agents(self, user_id: UUID, agents: Mapping[str, str]) -> None:
        """``agents`` are needed, each by the node that it is given with."""
        known = await self._agents.known(user_id, list(agents)) if agents else frozenset()
        for agent_id, node in agents.items():
            if agent_id not in known:
                text = f"Node {node!r}: you have no active agent {agent_id!r}; register it first."
                raise FlowInvalid(text, node=node, field="agent_id")


async def _revived(flows: FlowRepository, row: FlowRow, flow: Flow) -> Stored:
    if row.is_active:
        raise _taken(flow.flow_id)
    [last] = await flows.definitions([row.definition_id])
    row.is_active = True
    return await _raised(flows, row, flow, last.version)


async def _raised(flows: FlowRepository, row: FlowRow, flow: Flow, highest: str) -> Stored:
    """Write a flow above its highest version; its row is ours until the commit."""
    if await flows.count_versions(row.user_id, row.flow_id) >= VERSIONS_LIMIT:
        text = f"{row.flow_id!r} has {VERSIONS_LIMIT} versions; go on with a flow of another id."
        raise TooManyVersions(text)
    version = next_version(flow.version, highest)
    [definition] = await flows.write(row.user_id, [msgspec.structs.replace(flow, version=version)])
    row.definition_id = definition.id
    return _stored(row, definition)


def _changed(flow: Flow, changes: Mapping[str, Any]) -> Flow:
    """Ends that were found and not given are found again."""
    document = msgspec.to_builtins(flow)
    if flow.entry_point == entry_of(flow):
        del document["entry_point"]
    if flow.exit_points == exits_of(flow):
        del document["exit_points"]
    return parse_flow({**document, **changes})


def _stored(row: FlowRow, definition: DefinitionRow) -> Stored:
    return _version(definition, row.created_at)


def _version(definition: DefinitionRow, begun_at: datetime) -> Stored:
    flow, owner = decode(definition.body), definition.user_id
    return Stored(flow, "file" if owner is None else "api", owner, begun_at, definition.created_at)


def _taken(flow_id: str) -> FlowTaken:
    return FlowTaken(f"There is a flow {flow_id!r} already. Change it, or choose another id.")
