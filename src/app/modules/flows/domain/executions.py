"""What is asked of an execution, how far it is, and the words that its clients know."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

ExecutionStatus: TypeAlias = Literal["pending", "running", "completed", "failed", "cancelled"]
NodeStatus: TypeAlias = Literal["pending", "running", "completed", "failed", "skipped", "cancelled"]

FINAL: Final[frozenset[ExecutionStatus]] = frozenset({"completed", "failed", "cancelled"})
# What the life cycle of the house says, in the words of this contract.
WORDS: Final[Mapping[str, ExecutionStatus]] = {
    "pending": "pending",
    "running": "running",
    "awaiting": "running",
    "completed": "completed",
    "cancelled": "cancelled",
}
# What runs call them.
KIND: Final = "flows.execution"
# The name of the event that says how far a node is.
NODE: Final = "node"
PRIORITY_LIMIT: Final = 10
DEFAULT_TIMEOUT_S: Final = 3600.0
TIMEOUT_CEILING_S: Final = 86_400


class Order(msgspec.Struct, frozen=True):
    """One execution and what it is given. ``timeout_s`` is of the whole, waiting included.

    ``caller`` is the principal who pays for its model calls and scripts, as JSON; it is set when
    the order is taken on.
    """

    flow_id: str
    input_data: dict[str, Any]
    metadata: dict[str, Any] = {}
    priority: Annotated[int, Meta(ge=0, le=PRIORITY_LIMIT)] = 0
    timeout_s: float | None = None
    version: str | None = None
    caller: bytes = b""


class NodeState(msgspec.Struct, frozen=True):
    """How far a node is. ``output`` is JSON; ``attempts`` counts those that were begun.

    ``path`` is the node's id; below a flow that is a node, that node's path comes before it.
    """

    path: str
    status: NodeStatus
    at: datetime
    attempts: int = 0
    is_cached: bool = False
    output: bytes | None = None
    error: str | None = None
    duration_ms: int | None = None
    begun_at: datetime | None = None
    id: UUID | None = None


class Execution(msgspec.Struct, frozen=True):
    """An execution as its owner sees it. ``error_code`` says in one word why it failed."""

    id: UUID
    flow_id: str
    version: str
    status: ExecutionStatus
    order: Order
    created_at: datetime
    updated_at: datetime
    output: Any = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error_code: str | None = None
    error: str | None = None
    definitions: Mapping[str, UUID] = {}


def status_of(run_status: str) -> ExecutionStatus:
    """What the house calls timed out, interrupted or unknown has failed, for these clients."""
    return WORDS.get(run_status, "failed")


def settled(state: NodeState, status: ExecutionStatus) -> NodeState:
    """A node of an execution that has ended is at work no more."""
    if status not in FINAL or state.status not in {"pending", "running"}:
        return state
    ended: NodeStatus = "cancelled" if status != "failed" else "failed"
    text = "The execution ended while this node was at work."
    return msgspec.structs.replace(state, status=ended, error=state.error or text)
