"""Flows on a database, with files and agents that a test decides on."""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import app.modules.auth.models
import app.modules.runs.models  # noqa: F401 - tables of flows refer to those of both
from app.kernel.db import Database
from app.modules.auth.models import UserRow
from app.modules.flows.domain.checks import parse_flow
from app.modules.flows.domain.definitions import Flow
from app.modules.flows.service.flows import Flows

ANNA, BERT = UUID(int=1), UUID(int=2)


def document(flow_id: str = "review", *nodes: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"flow_id": flow_id, "name": flow_id, "nodes": list(nodes) or [step()], **members}


def flow(flow_id: str = "review", *nodes: dict[str, Any], **members: Any) -> Flow:
    return parse_flow(document(flow_id, *nodes, **members))


def step(node_id: str = "a", *depends_on: str, **members: Any) -> dict[str, Any]:
    return {"id": node_id, "depends_on": list(depends_on), **members}


def inner(node_id: str, flow_id: str, version: str | None = None) -> dict[str, Any]:
    """A node that is a flow."""
    config = {"flow_id": flow_id} | ({"version": version} if version else {})
    return step(node_id, kind="flow", config=config)


class Files:
    """The operator's files, as they would have been read."""

    def __init__(self) -> None:
        self._flows: Mapping[str, Flow] = {}

    def put(self, *flows: Flow) -> None:
        self._flows = {**self._flows, **{one.flow_id: one for one in flows}}

    def drop(self, flow_id: str) -> None:
        self._flows = {name: one for name, one in self._flows.items() if name != flow_id}

    async def read(self) -> Mapping[str, Flow]:
        return self._flows


class Registered:
    """Agents of users, and how often somebody asked for them."""

    def __init__(self) -> None:
        self.active: dict[UUID, set[str]] = {ANNA: {"helper"}}
        self.asked = 0

    async def known(self, user_id: UUID, agent_ids: Collection[str]) -> frozenset[str]:
        self.asked += 1
        return frozenset(agent_ids) & self.active.get(user_id, set())


class Shelf:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.files = Files()
        self.agents = Registered()
        self.flows = self.opened()

    def opened(self) -> Flows:
        """The same flows, as another process has them."""
        return Flows(self.db, self.files, self.agents)

    async def create(self, flow_id: str = "review", *nodes: dict[str, Any], **members: Any) -> None:
        await self.flows.create(ANNA, flow(flow_id, *nodes, **members))


async def people(db: Database) -> None:
    async with db.begin() as session:
        for number, user_id in enumerate((ANNA, BERT)):
            session.add(
                UserRow(
                    id=user_id,
                    email=f"{number}@example.org",
                    role="member",
                    credential_kind="password",
                    credential_hash=None,
                    kdf_salt="salt",
                )
            )
