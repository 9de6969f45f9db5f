"""Flows on the wire. Times are ISO 8601, in UTC."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from app.modules.flows.domain.definitions import Branch, Node, NodeKind, NodeType
from app.modules.flows.domain.versions import Source, Stored, Version


class NodeRead(msgspec.Struct, frozen=True):
    """One step, as it was given. What does not apply to it is left out."""

    id: str
    type: NodeType
    depends_on: list[str]
    config: dict[str, Any]
    agent_id: str | UnsetType = UNSET
    kind: NodeKind | UnsetType = UNSET
    conditions: list[Branch] | UnsetType = UNSET

    @classmethod
    def of(cls, node: Node) -> "NodeRead":
        return cls(
            id=node.id,
            type=node.type,
            depends_on=node.depends_on,
            config=node.config,
            agent_id=node.agent_id or UNSET,
            kind=node.work or UNSET,
            conditions=node.conditions or UNSET,
        )


class FlowRead(msgspec.Struct, frozen=True):
    """A version of a flow. ``created_by`` is nobody for the installation's, which are files.

    ``created_at`` is when the flow was made, ``updated_at`` when this version of it was.
    """

    flow_id: str
    name: str
    description: str
    version: str
    nodes: list[NodeRead]
    entry_point: str | None
    exit_points: list[str]
    metadata: dict[str, Any]
    created_by: UUID | None
    source: Source
    is_active: bool
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, stored: Stored) -> "FlowRead":
        flow = stored.flow
        return cls(
            flow_id=flow.flow_id,
            name=flow.name,
            description=flow.description,
            version=flow.version,
            nodes=[NodeRead.of(node) for node in flow.nodes],
            entry_point=flow.entry_point,
            exit_points=flow.exit_points,
            metadata=flow.metadata,
            created_by=stored.created_by,
            source=stored.source,
            is_active=True,
            created_at=stored.created_at,
            updated_at=stored.updated_at,
        )


class FlowList(msgspec.Struct, frozen=True):
    """Some of them; ``count`` is how many there are in all."""

    flows: list[FlowRead]
    count: int
    user_id: UUID | UnsetType = UNSET

    @classmethod
    def of(
        cls, found: tuple[Sequence[Stored], int], user_id: UUID | UnsetType = UNSET
    ) -> "FlowList":
        stored, count = found
        return cls([FlowRead.of(one) for one in stored], count, user_id)


class VersionRead(msgspec.Struct, frozen=True):
    version: str
    created_at: datetime


class VersionList(msgspec.Struct, frozen=True):
    """The highest comes first."""

    versions: list[VersionRead]
    count: int

    @classmethod
    def of(cls, versions: Sequence[Version]) -> "VersionList":
        shown = [VersionRead(one.version, one.created_at) for one in versions]
        return cls(shown, len(shown))


class FlowDeleted(msgspec.Struct, frozen=True):
    """It can no longer be started; executions of it go on."""

    message: str
    status: Literal["deleted"] = "deleted"
