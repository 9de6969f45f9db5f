"""The answers as values: ``Execution.from_dict(client.get_execution(...))``.

A field that this version does not know is left out, and so is one that is null.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping, TypeVar

from ai_spine.exceptions import ExecutionError, ValidationError

M = TypeVar("M", bound="_Model")

FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})
HEALTHY = frozenset({"healthy", "ok", "up"})
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):?(\d\d))?"
)


@dataclass(frozen=True)
class _Model:
    """What all of them can."""

    @classmethod
    def from_dict(cls: type[M], data: Mapping[str, Any]) -> M:
        """Read what a method returned.

        Args:
            data: The dictionary.

        Returns:
            The value; its times are aware and in UTC.

        Raises:
            ValidationError: A field without a default is missing, or a time is none.
        """
        known = {f.name for f in fields(cls)}
        try:
            return cls(
                **{
                    name: _read(name, value)
                    for name, value in data.items()
                    if name in known and value is not None
                }
            )
        except (AttributeError, TypeError) as error:
            raise ValidationError(f"This is no {cls.__name__}: {error}.") from None

    def to_dict(self) -> dict[str, Any]:
        """Write it as the server does.

        Returns:
            A dictionary of what JSON knows; times are ISO 8601 texts.
        """
        return {f.name: _written(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class Flow(_Model):
    """A flow: nodes that depend on each other."""

    flow_id: str
    name: str
    description: str = ""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    version: str = ""
    entry_point: str | None = None
    exit_points: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    created_by: str | None = None
    source: str = ""
    is_active: bool = True
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class NodeResult(_Model):
    """What became of one node in one execution."""

    node_id: str
    status: str
    execution_id: str = ""
    id: str = ""
    agent_id: str | None = None
    input_data: dict[str, Any] = field(default_factory=dict)
    output_data: Any = None
    error_message: str | None = None
    execution_time_ms: float | None = None
    attempts: int = 0
    cached: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None
    completed_at: datetime | None = None


@dataclass(frozen=True)
class Execution(_Model):
    """One run of a flow: pending, running, completed, failed or cancelled."""

    execution_id: str
    flow_id: str
    status: str
    input_data: dict[str, Any] = field(default_factory=dict)
    output_data: dict[str, Any] | None = None
    error_message: str | None = None
    error_code: str | None = None
    flow_version: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    timeout: float | None = None
    node_results: dict[str, NodeResult] = field(default_factory=dict)
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    completed_at: datetime | None = None
    execution_time: float | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in FINAL_STATUSES

    @property
    def is_successful(self) -> bool:
        """Whether it has completed."""
        return self.status == "completed"

    @property
    def is_failed(self) -> bool:
        """Whether it has failed."""
        return self.status == "failed"

    def raise_for_status(self) -> None:
        """Insist on success.

        Raises:
            ExecutionError: It failed or was cancelled.
        """
        if self.is_terminal and not self.is_successful:
            reason = self.error_message or "no reason was given"
            text = f"Execution {self.execution_id} is {self.status}: {reason}"
            raise ExecutionError(text, self.execution_id, self.to_dict())


@dataclass(frozen=True)
class ExecutionEvent(_Model):
    """One event of ``stream_execution``. ``id`` is what to go on behind."""

    event: str
    data: dict[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Agent(_Model):
    """An HTTP worker that nodes can call."""

    agent_id: str
    name: str
    description: str = ""
    endpoint: str = ""
    capabilities: list[str] = field(default_factory=list)
    agent_type: str = ""
    type: str = ""
    is_active: bool = True
    configuration: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    environment_schema: dict[str, Any] = field(default_factory=dict)
    has_token: bool = False
    is_idempotent: bool = False
    status: str = "unknown"
    last_seen_at: datetime | None = None
    created_by: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class User(_Model):
    """Whom the key belongs to."""

    id: str
    email: str = ""
    name: str = ""
    organization: str | None = None
    plan: str = ""
    credits: int = 0
    rate_limit: int | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class HealthStatus(_Model):
    """Whether the server is well."""

    status: str = "unknown"
    version: str = ""
    message: str = ""
    timestamp: datetime | None = None
    startup_complete: bool = False
    uptime: float | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether it says so."""
        return self.status.lower() in HEALTHY


@dataclass(frozen=True)
class Metrics(_Model):
    """Counts of executions, flows and agents; times are seconds."""

    total_executions: int = 0
    successful_executions: int = 0
    failed_executions: int = 0
    cancelled_executions: int = 0
    running_executions: int = 0
    average_execution_time: float = 0.0
    total_execution_time: float = 0.0
    last_execution: datetime | None = None
    executions_total: int = 0
    executions_active: int = 0
    flows_total: int = 0
    agents_total: int = 0
    timestamp: datetime | None = None


def _read(name: str, value: Any) -> Any:
    if name.endswith("_at") or name in ("timestamp", "last_execution"):
        return _time(name, value)
    if name == "node_results":
        return {node: NodeResult.from_dict(said) for node, said in value.items()}
    return value


def _written(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, _Model):
        return value.to_dict()
    if isinstance(value, dict):
        return {name: _written(inner) for name, inner in value.items()}
    return value


def _time(name: str, value: Any) -> datetime:
    """ISO 8601, UTC where no offset stands, or seconds since 1970."""
    try:
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, timezone.utc)
        return _iso_time(str(value))
    except (ValueError, OverflowError, OSError):
        raise ValidationError(f"{name} is no ISO 8601 time.") from None


def _iso_time(text: str) -> datetime:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    day, clock, fraction, sign, hours, minutes = found.groups()
    read = datetime.fromisoformat(f"{day}T{clock}+00:00")
    read += timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6]))
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    return read + offset if sign == "-" else read - offset
