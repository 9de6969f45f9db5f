"""Agents: servers of users that do nodes, and what a user says of one."""

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from app.kernel.errors import Conflict, Invalid, NotFound
from app.modules.flows.domain.definitions import Id
from app.modules.flows.domain.depths import DEPTH_LIMIT, is_too_deep

# Paths beside ``/agents/{agent_id}``, where an agent of that name could not be read.
RESERVED: Final = frozenset({"active", "my-agents", "test"})
NOTES_LIMIT_BYTES: Final = 65_536
NOTES: Final = "environment_schema, configuration and metadata"

Capability: TypeAlias = Literal[
    "conversation",
    "information_gathering",
    "credit_analysis",
    "risk_assessment",
    "document_processing",
    "decision_making",
]
State: TypeAlias = Literal["unknown", "healthy", "unhealthy"]
Line: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)")
]
Text: TypeAlias = Annotated[str, Meta(max_length=10_000, pattern=r"^[^\x00]*$(?!\n)")]
AgentKind: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
Endpoint: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2048)]
Token: TypeAlias = Annotated[str, Meta(max_length=4096, pattern=r"^[!-~]+$(?!\n)")]


class AgentInvalid(Invalid):
    """This is no agent that could be asked."""

    title = "Agent invalid"


class AgentTaken(Conflict):
    """The user has an agent of this id."""

    title = "Agent taken"


class TooManyAgents(Conflict):
    """The user has as many agents as one may have."""

    title = "Too many agents"


class NoSuchAgent(NotFound):
    """No such agent, or somebody else's."""

    title = "Agent not found"


class Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value that an agent wants from whoever uses it in a flow."""

    type: Literal["string", "number", "boolean", "password"]
    description: Text = ""
    required: bool = False
    default_value: Any = None
    sensitive: bool = False


class Registration(msgspec.Struct, frozen=True):
    """What a user says of an agent. ``token`` is sent to it with each call, and never shown."""

    agent_id: Id
    name: Line
    endpoint: Endpoint
    description: Text = ""
    capabilities: tuple[Capability, ...] = ()
    agent_type: AgentKind = "processor"
    is_active: bool = True
    is_idempotent: bool = False
    token: Token | None = None
    environment_schema: dict[str, Variable] = {}
    configuration: dict[str, Any] = {}
    metadata: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Registration({self.agent_id!r}, {self.endpoint!r})"


def require_id(agent_id: str) -> str:
    """Return ``agent_id``; ``AgentInvalid`` for one that is a path of its own."""
    if agent_id in RESERVED:
        text = f"agent_id must not be one of {', '.join(sorted(RESERVED))}."
        raise AgentInvalid(text, field="agent_id")
    return agent_id


def notes_of(wanted: Registration) -> dict[str, Any]:
    """What an agent's user has noted of it, by column; ``AgentInvalid`` if it is too much."""
    defaults = [variable.default_value for variable in wanted.environment_schema.values()]
    if is_too_deep([defaults, wanted.configuration, wanted.metadata]):
        raise AgentInvalid(f"{NOTES} go less than {DEPTH_LIMIT} levels deep.")
    notes = {
        "environment_schema": msgspec.to_builtins(wanted.environment_schema),
        "configuration": wanted.configuration,
        "notes": wanted.metadata,
    }
    if len(msgspec.json.encode(notes)) > NOTES_LIMIT_BYTES:
        raise AgentInvalid(f"{NOTES} have {NOTES_LIMIT_BYTES:,} bytes together at most.")
    return notes
