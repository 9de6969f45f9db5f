"""What is asked of an execution, how it ended, and the words that its clients know."""

import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from app.modules.sandbox.domain.limits import Limits

ExecutionStatus: TypeAlias = Literal[
    "pending", "running", "awaiting_llm", "completed", "error", "timeout"
]
LlmMode: TypeAlias = Literal["caller", "gateway"]

FINAL: Final[frozenset[ExecutionStatus]] = frozenset({"completed", "error", "timeout"})
# What the life cycle of the house says, in the words of this contract.
WORDS: Final[Mapping[str, ExecutionStatus]] = {
    "pending": "pending",
    "running": "running",
    "awaiting": "awaiting_llm",
    "completed": "completed",
    "timed_out": "timeout",
}
NAME_LIMIT_CHARS: Final = 128


class InputFile(msgspec.Struct, frozen=True):
    """A file that lies in the script's working folder when it begins."""

    name: str
    data: bytes


class Order(msgspec.Struct, frozen=True):
    """One script and what it is given.

    ``llm`` is the project's where it is ``None``. ``limits`` are what it may use; ``caller`` is
    the principal who pays for its model calls, as JSON. Both are set when it is taken on.
    """

    project: str
    code: str
    timeout_s: int
    settings: dict[str, str] = {}
    memory: dict[str, Any] = {}
    files: tuple[InputFile, ...] = ()
    llm: LlmMode | None = None
    limits: Limits = Limits()
    caller: bytes = b""


class Artifact(msgspec.Struct, frozen=True):
    """A file that a script has saved."""

    name: str
    size_bytes: int


class Question(msgspec.Struct, frozen=True):
    """What a paused script asks a language model."""

    prompt: str
    model: str


class Outcome(msgspec.Struct, frozen=True):
    """What an execution leaves. Output is redacted; where it is truncated, its middle is gone."""

    completed_at: datetime
    result: Any = None
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    error: str | None = None
    memory_updates: dict[str, Any] = {}
    execution_time_ms: int | None = None
    artifacts: tuple[Artifact, ...] = ()


class Execution(msgspec.Struct, frozen=True):
    """An execution as its owner sees it. ``request_id`` names the question that it waits for."""

    id: UUID
    project: str
    status: ExecutionStatus
    created_at: datetime
    outcome: Outcome | None = None
    question: Question | None = None
    request_id: str | None = None
    completed_at: datetime | None = None
    error: str | None = None


class End(msgspec.Struct, frozen=True):
    """How a worker ended that did not say ``done``."""

    exit_code: int | None
    signal: int | None
    reason: str


def status_of(run_status: str, *, is_queued: bool) -> ExecutionStatus:
    """A run that has a process but no worker yet is still pending for its client."""
    if run_status == "running" and is_queued:
        return "pending"
    return WORDS.get(run_status, "error")


def end_text(end: End, limits: Limits) -> str:
    """Say to the author of a script why its worker ended."""
    reasons = {
        "memory": f"The script used more than {limits.memory_mb} MiB of memory.",
        "cpu": f"The script used more than {limits.cpu_s} s of processor time.",
        "disk": f"The script wrote more than {limits.disk_mb} MiB or {limits.inodes} files.",
        "protocol": "The script wrote into the channel of its worker, which was stopped.",
    }
    if end.reason in reasons:
        return reasons[end.reason]
    if end.signal is not None:
        return f"The worker was ended by signal {end.signal} ({_signal_name(end.signal)})."
    return f"The script ended its own process with exit code {end.exit_code}."


def is_cpu_end(end: End) -> bool:
    """Whether the kernel or the watchdog stopped it for its processor time."""
    return end.reason == "cpu" or end.signal == signal.SIGXCPU


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
