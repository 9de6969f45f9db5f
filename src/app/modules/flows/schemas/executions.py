"""Executions on the wire. Times are ISO 8601, in UTC; durations are seconds unless they say ms."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from app.modules.flows.domain.definitions import Id
from app.modules.flows.domain.executions import (
    NODE,
    PRIORITY_LIMIT,
    TIMEOUT_CEILING_S,
    Execution,
    ExecutionStatus,
    NodeState,
    NodeStatus,
    Order,
    status_of,
)
from app.modules.flows.domain.views import Seen, Told
from app.modules.runs.api import EFFECT_BEGUN, EFFECT_DONE, Event

Direction: TypeAlias = Literal["request", "response", "error"]
NODE_EVENTS: Final = {NODE, EFFECT_BEGUN, EFFECT_DONE}
NODE_MEMBERS: Final = ("node_id", "status", "error_message", "execution_time_ms")


class ExecutionCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A flow and what it is given. ``timeout`` is in seconds, of the whole.

    ``user_id`` is what older clients send; the caller is who the key says.
    """

    flow_id: Id
    input_data: dict[str, Any] = {}
    metadata: dict[str, Any] | None = None
    priority: Annotated[int, Meta(ge=0, le=PRIORITY_LIMIT)] = 0
    timeout: Annotated[float, Meta(ge=0.1, le=TIMEOUT_CEILING_S)] | None = None
    version: Annotated[str, Meta(max_length=32)] | None = None
    user_id: str | None = None

    @property
    def order(self) -> Order:
        return Order(
            self.flow_id,
            self.input_data,
            self.metadata or {},
            self.priority,
            self.timeout,
            self.version,
        )


class ExecutionCreated(msgspec.Struct, frozen=True):
    """It is kept, and will be done."""

    execution_id: UUID
    flow_id: str
    created_at: datetime
    status: Literal["pending"] = "pending"
    result: None = None
    error: None = None
    execution_time: None = None


class NodeResult(msgspec.Struct, frozen=True):
    """How far one node is. ``node_id`` is a path where its flow is a node itself."""

    id: UUID | None
    execution_id: UUID
    node_id: str
    agent_id: str | None
    status: NodeStatus
    input_data: dict[str, Any]
    output_data: Any
    error_message: str | None
    execution_time_ms: int | None
    attempts: int
    cached: bool
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None

    @classmethod
    def of(cls, execution_id: UUID, state: NodeState, told: Told) -> "NodeResult":
        is_over = state.status not in {"pending", "running"}
        return cls(
            id=state.id,
            execution_id=execution_id,
            node_id=state.path,
            agent_id=told.node.agent_id,
            status=state.status,
            input_data={} if state.status == "skipped" else told.input,
            output_data=None if state.output is None else msgspec.json.decode(state.output),
            error_message=state.error,
            execution_time_ms=state.duration_ms,
            attempts=state.attempts,
            cached=state.is_cached,
            created_at=state.begun_at or state.at,
            updated_at=state.at,
            completed_at=state.at if is_over else None,
        )


class ExecutionSummary(msgspec.Struct, frozen=True):
    """An execution in a list: without its nodes."""

    execution_id: UUID
    flow_id: str
    flow_version: str
    status: ExecutionStatus
    input_data: dict[str, Any]
    output_data: Any
    error_message: str | None
    error_code: str | None
    metadata: dict[str, Any]
    priority: int
    timeout: float | None
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    completed_at: datetime | None
    execution_time: float | None

    @classmethod
    def of(cls, execution: Execution) -> "ExecutionSummary":
        return cls(**_members(execution))


class ExecutionRead(msgspec.Struct, frozen=True):
    """An execution, as far as it is. ``message`` says what was done to it, where something was."""

    execution_id: UUID
    flow_id: str
    flow_version: str
    status: ExecutionStatus
    input_data: dict[str, Any]
    output_data: Any
    error_message: str | None
    error_code: str | None
    metadata: dict[str, Any]
    priority: int
    timeout: float | None
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    completed_at: datetime | None
    execution_time: float | None
    node_results: dict[str, NodeResult]
    message: str | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, seen: Seen, *, message: str | msgspec.UnsetType = msgspec.UNSET) -> "ExecutionRead":
        results = {result.node_id: result for result in results_of(seen)}
        return cls(**_members(seen.execution), node_results=results, message=message)


class ExecutionList(msgspec.Struct, frozen=True):
    """A page of executions, newest first."""

    executions: list[ExecutionSummary]
    count: int
    flow_id: str | None
    limit: int
    offset: int


class ResultList(msgspec.Struct, frozen=True):
    """What each node of an execution gave, in the order of their beginning."""

    execution_id: UUID
    execution: ExecutionSummary
    node_results: list[NodeResult]
    count: int


class MessageRead(msgspec.Struct, frozen=True):
    """What a node was asked, or what it answered."""

    id: str
    execution_id: UUID
    node_id: str
    agent_id: str | None
    direction: Direction
    content: Any
    created_at: datetime


class MessageList(msgspec.Struct, frozen=True):
    """A page of an execution's messages, oldest first."""

    messages: list[MessageRead]
    count: int
    execution_id: UUID


def results_of(seen: Seen) -> list[NodeResult]:
    told = seen.told
    return [NodeResult.of(seen.execution.id, one, told[one.path]) for one in seen.states]


def messages_of(seen: Seen) -> list[MessageRead]:
    """A question to every node that something had to be done for, and what came of it."""
    found: list[MessageRead] = []
    for result in results_of(seen):
        if seen.told[result.node_id].node.work is None or result.status == "skipped":
            continue
        found.append(_message(result, "request", result.input_data, result.created_at))
        if result.completed_at is not None and result.output_data is not None:
            found.append(_message(result, "response", result.output_data, result.completed_at))
        elif result.completed_at is not None:
            content = {"error_message": result.error_message}
            found.append(_message(result, "error", content, result.completed_at))
    return sorted(found, key=lambda one: one.created_at)


def event_frame(event: Event) -> bytes | None:
    """A server-sent event in the words of this contract; ``None`` for what it has no word for."""
    if event.name == "status":
        return _frame(event.seq, b"status", {"status": status_of(event.data["status"])})
    if event.name in NODE_EVENTS:
        said = {name: event.data[name] for name in NODE_MEMBERS if name in event.data}
        return _frame(event.seq, b"node", said)
    return None


def result_frame(read: ExecutionRead) -> bytes:
    """The last event: the execution as it ended."""
    return b"event: result\ndata: %b\n\n" % _encode(read)


def _frame(seq: int, name: bytes, data: Any) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, name, _encode(data))


def _message(result: NodeResult, direction: Direction, content: Any, at: datetime) -> MessageRead:
    return MessageRead(
        id=f"{result.node_id}:{direction}",
        execution_id=result.execution_id,
        node_id=result.node_id,
        agent_id=result.agent_id,
        direction=direction,
        content=content,
        created_at=at,
    )


def _members(execution: Execution) -> dict[str, Any]:
    order = execution.order
    took_s = None
    if execution.started_at is not None and execution.ended_at is not None:
        took_s = (execution.ended_at - execution.started_at).total_seconds()
    return {
        "execution_id": execution.id,
        "flow_id": execution.flow_id,
        "flow_version": execution.version,
        "status": execution.status,
        "input_data": order.input_data,
        "output_data": execution.output,
        "error_message": execution.error,
        "error_code": execution.error_code,
        "metadata": order.metadata,
        "priority": order.priority,
        "timeout": order.timeout_s,
        "created_at": execution.created_at,
        "started_at": execution.started_at,
        "updated_at": execution.updated_at,
        "completed_at": execution.ended_at,
        "execution_time": took_s,
    }


_encode = msgspec.json.Encoder().encode
