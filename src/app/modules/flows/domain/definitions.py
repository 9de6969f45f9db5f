"""What a flow is: nodes, what each waits for, and what each does."""

from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from app.kernel.errors import Invalid

ID: Final = r"^[A-Za-z0-9_-]{1,100}$(?!\n)"
NODES_LIMIT: Final = 200
TIMEOUT_S: Final = 30.0

Id: TypeAlias = Annotated[str, Meta(pattern=ID)]
NodeType: TypeAlias = Literal["input", "processor", "output", "conditional"]
NodeKind: TypeAlias = Literal["agent", "llm", "code", "flow"]


class FlowInvalid(Invalid):
    """This is no flow that could run; ``node`` names where it is wrong."""

    title = "Flow invalid"


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often a node is tried, and how long it waits before: ``backoff_s``, then ``factor``
    times as long each time.
    """

    attempts: Annotated[int, Meta(ge=1, le=10)] = 1
    backoff_s: Annotated[float, Meta(ge=0, le=60)] = 1.0
    factor: Annotated[float, Meta(ge=1, le=10)] = 2.0


class Caching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a node's output answers for the same input."""

    ttl_s: Annotated[float, Meta(gt=0, le=30 * 86_400)]


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a conditional goes on: ``when`` an expression holds, or in every other case."""

    when: str | None = None
    then: list[str] = []
    otherwise: list[str] = msgspec.field(default=[], name="else")


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step. Without a ``kind`` and an ``agent_id`` it passes on what it is given."""

    id: Id
    type: NodeType = "processor"
    agent_id: str | None = None
    kind: NodeKind | None = None
    depends_on: list[str] = []
    config: dict[str, Any] = {}
    conditions: list[Branch] | None = None

    @property
    def work(self) -> NodeKind | None:
        """What does it; ``None`` for a node that passes on."""
        return self.kind or ("agent" if self.agent_id else None)


class NodeSettings(msgspec.Struct, frozen=True):
    """The part of a node's ``config`` that every kind has. ``timeout`` is in seconds."""

    timeout: Annotated[float, Meta(ge=0.1, le=3600)] = TIMEOUT_S
    retry: Retry = Retry()
    cache: Caching | None = None
    idempotent: bool | None = None


class LlmTask(msgspec.Struct, frozen=True):
    """A prompt, with ``{name}`` in the place of what the input has under that name."""

    prompt: str
    model: str = "default"
    system_prompt: str = ""


class CodeTask(msgspec.Struct, frozen=True):
    """A script. Its input is the file ``input.json`` beside it; its ``set_result`` is the output,
    or else what it printed.
    """

    code: str
    project: str = "default"
    settings: dict[str, str] = {}
    memory: dict[str, Any] = {}


class FlowTask(msgspec.Struct, frozen=True):
    """Another flow, run on this node's input."""

    flow_id: Id
    version: str | None = None


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A definition, as a file or a client gives it, and as it is kept.

    ``parse_flow`` and ``check_flow`` make one whose nodes fit together.
    """

    flow_id: Id
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    nodes: Annotated[list[Node], Meta(min_length=1, max_length=NODES_LIMIT)]
    description: Annotated[str, Meta(max_length=10_000)] = ""
    version: Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,2}$(?!\n)")] = "1.0.0"
    entry_point: str | None = None
    exit_points: list[str] = []
    metadata: dict[str, Any] = {}


class Plan(msgspec.Struct, frozen=True):
    """What an execution runs: a flow, and the flows that are nodes, theirs included.

    ``inner`` is by path of the node, as in ``NodeRow.node_id``; ``ids`` are the definitions' ids by
    the same path, the flow itself under the empty one.
    """

    flow: Flow
    inner: dict[str, Flow]
    ids: dict[str, UUID]
