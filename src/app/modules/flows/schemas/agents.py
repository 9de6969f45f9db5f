"""Agents on the wire."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.modules.flows.domain.agents import (
    AgentInvalid,
    AgentKind,
    Capability,
    Endpoint,
    Line,
    Registration,
    Text,
    Token,
    Variable,
)
from app.modules.flows.domain.definitions import Id
from app.modules.flows.models.agents import AgentRow


class AgentCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent to register. ``type`` is another name for ``agent_type``.

    ``token`` is sent to it as a bearer token, and never shown again.
    """

    agent_id: Id
    name: Line
    endpoint: Endpoint
    description: Text = ""
    capabilities: Annotated[list[Capability], Meta(max_length=32)] = []
    agent_type: AgentKind | None = None
    type: AgentKind | None = None
    is_active: bool = True
    is_idempotent: bool = False
    token: Token | None = None
    environment_schema: dict[str, Variable] = {}
    configuration: dict[str, Any] = {}
    metadata: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"AgentCreate({self.agent_id!r}, {self.endpoint!r})"

    @property
    def wanted(self) -> Registration:
        """``AgentInvalid`` where it has two types."""
        if self.agent_type and self.type and self.agent_type != self.type:
            text = "agent_type and type say different things; give one of them."
            raise AgentInvalid(text, field="type")
        return Registration(
            agent_id=self.agent_id,
            name=self.name,
            endpoint=self.endpoint,
            description=self.description,
            capabilities=tuple(self.capabilities),
            agent_type=self.agent_type or self.type or "processor",
            is_active=self.is_active,
            is_idempotent=self.is_idempotent,
            token=self.token,
            environment_schema=self.environment_schema,
            configuration=self.configuration,
            metadata=self.metadata,
        )


class AgentRead(msgspec.Struct, frozen=True):
    """An agent, and how it was when its health was last looked at.

    ``last_seen_at`` is when it last answered well. Of its token, only whether it has one.
    """

    agent_id: str
    name: str
    description: str
    endpoint: str
    capabilities: list[str]
    agent_type: str
    type: str
    is_active: bool
    configuration: dict[str, Any]
    metadata: dict[str, Any]
    environment_schema: dict[str, Any]
    has_token: bool
    is_idempotent: bool
    status: str
    last_seen_at: datetime | None
    created_by: UUID
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: AgentRow) -> "AgentRead":
        return cls(
            agent_id=row.agent_id,
            name=row.name,
            description=row.description,
            endpoint=row.endpoint,
            capabilities=row.capabilities,
            agent_type=row.agent_type,
            type=row.agent_type,
            is_active=row.is_active,
            configuration=row.configuration,
            metadata=row.notes,
            environment_schema=row.environment_schema,
            has_token=row.token is not None,
            is_idempotent=row.is_idempotent,
            status=row.state,
            last_seen_at=row.seen_at,
            created_by=row.user_id,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class AgentList(msgspec.Struct, frozen=True):
    """The caller's agents. Clients of the contract look for the last two where they are shown."""

    agents: list[AgentRead]
    count: int
    authenticated: bool | UnsetType = UNSET
    user_id: UUID | UnsetType = UNSET

    @classmethod
    def of(
        cls,
        rows: list[AgentRow],
        *,
        authenticated: bool | UnsetType = UNSET,
        user_id: UUID | UnsetType = UNSET,
    ) -> "AgentList":
        return cls([AgentRead.of(row) for row in rows], len(rows), authenticated, user_id)


class AgentRemoved(msgspec.Struct, frozen=True):
    message: str


class AgentTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an agent may be, before it is registered."""

    endpoint: Endpoint
    token: Token | None = None

    def __repr__(self) -> str:
        return f"AgentTest({self.endpoint!r})"


class AgentTested(msgspec.Struct, frozen=True):
    """Whether an agent answers there; ``message`` says why not."""

    connected: bool
    message: str
