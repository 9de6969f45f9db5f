"""Executions on the wire. Times are ISO 8601, in UTC."""

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from app.modules.runs.api import Event
from app.modules.sandbox.domain.executions import (
    Artifact,
    Execution,
    ExecutionStatus,
    InputFile,
    LlmMode,
    Order,
    Outcome,
    status_of,
)
from app.modules.sandbox.domain.frames import NAME_LIMIT_CHARS
from app.modules.sandbox.domain.projects import DEFAULT_NAME

TIMEOUT_CEILING_S: Final = 600
FILES_LIMIT: Final = 256
RESPONSE_LIMIT_CHARS: Final = 1024 * 1024
FILE_NAME: Final = r"^(?!\.\.?$)[^\x00-\x1f\x7f-\x9f/\\]+$"
SHOWN_EVENTS: Final = {"stdout", "stderr", "status", "queued", "started", "llm.asked"}


class FileCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file for the script's working folder: a name, not a path."""

    name: Annotated[str, Meta(min_length=1, max_length=NAME_LIMIT_CHARS, pattern=FILE_NAME)]
    content_base64: bytes


class ExecutionCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A script, and what it is given. ``timeout`` is in seconds; pauses do not count.

    ``llm``: who answers ``llm.complete``, the ``caller`` or the ``gateway``; the project's default
    if it is left out.
    """

    code: str
    project: Annotated[str, Meta(min_length=1, max_length=63)] = DEFAULT_NAME
    timeout: Annotated[int, Meta(ge=1, le=TIMEOUT_CEILING_S)] = 60
    settings: dict[str, str] = {}
    memory: dict[str, Any] = {}
    files: Annotated[list[FileCreate], Meta(max_length=FILES_LIMIT)] = []
    llm: LlmMode | None = None

    @property
    def order(self) -> Order:
        files = tuple(InputFile(file.name, file.content_base64) for file in self.files)
        return Order(
            self.project, self.code, self.timeout, self.settings, self.memory, files, self.llm
        )


class LlmResponse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The completion that a paused script waits for.

    With ``request_id`` it answers that question and no other.
    """

    response: Annotated[str, Meta(max_length=RESPONSE_LIMIT_CHARS)]
    request_id: str | None = None


class ExecutionCreated(msgspec.Struct, frozen=True):
    """Where to ask for what became of it."""

    execution_id: UUID
    status: ExecutionStatus
    poll_url: str


class LlmRequest(msgspec.Struct, frozen=True):
    """What a paused script asks. ``request_id`` goes back with the answer."""

    prompt: str
    model: str
    request_id: str | None


class ExecutionRead(msgspec.Struct, frozen=True):
    """An execution, as far as it is. ``memory_updates`` has dotted keys, and is there for the
    caller to apply when the execution is ``completed``.
    """

    execution_id: UUID
    project: str
    status: ExecutionStatus
    created_at: datetime
    completed_at: datetime | None = None
    result: Any = None
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    error: str | None = None
    llm_request: LlmRequest | None = None
    memory_updates: dict[str, Any] = {}
    execution_time_ms: int | None = None
    artifacts: tuple[Artifact, ...] = ()

    @classmethod
    def of(cls, execution: Execution) -> "ExecutionRead":
        question = execution.question
        asked = None
        if question is not None:
            asked = LlmRequest(question.prompt, question.model, execution.request_id)
        left = execution.outcome or NOTHING
        return cls(
            execution_id=execution.id,
            project=execution.project,
            status=execution.status,
            created_at=execution.created_at,
            completed_at=execution.completed_at,
            result=left.result,
            stdout=left.stdout,
            stderr=left.stderr,
            stdout_truncated=left.stdout_truncated,
            stderr_truncated=left.stderr_truncated,
            error=execution.error,
            llm_request=asked,
            memory_updates=left.memory_updates,
            execution_time_ms=left.execution_time_ms,
            artifacts=left.artifacts,
        )


class ExecutionSummary(msgspec.Struct, frozen=True):
    """An execution in a list: without what it left."""

    execution_id: UUID
    project: str
    status: ExecutionStatus
    created_at: datetime
    completed_at: datetime | None
    error: str | None

    @classmethod
    def of(cls, execution: Execution) -> "ExecutionSummary":
        return cls(
            execution_id=execution.id,
            project=execution.project,
            status=execution.status,
            created_at=execution.created_at,
            completed_at=execution.completed_at,
            error=execution.error,
        )


NOTHING: Final = Outcome(completed_at=datetime.min)  # noqa: DTZ901 - never shown

_encode = msgspec.json.Encoder().encode


def event_frame(event: Event) -> bytes | None:
    """A server-sent event in the words of this contract; ``None`` for what it has no word for."""
    if event.name not in SHOWN_EVENTS:
        return None
    name, shown = event.name, event.data
    if event.name == "status":
        shown = {"status": status_of(event.data["status"], is_queued=False)}
    elif event.name in {"queued", "started"}:
        word = "pending" if event.name == "queued" else "running"
        name, shown = "status", {"status": word}
    elif event.name == "llm.asked":
        asked = LlmRequest(event.data["prompt"], event.data["model"], str(event.seq))
        name, shown = "llm_request", msgspec.to_builtins(asked)
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, name.encode(), _encode(shown))


def untold(read: ExecutionRead, told: dict[str, int]) -> list[tuple[str, str]]:
    """What was printed after the log's last word. Where the middle is lost, only the result has
    the end.
    """
    streams = (
        ("stdout", read.stdout, read.stdout_truncated),
        ("stderr", read.stderr, read.stderr_truncated),
    )
    return [
        (name, text[told[name] :])
        for name, text, is_truncated in streams
        if len(text) > told[name] and not (is_truncated and told[name])
    ]


def text_frame(stream: str, text: str) -> bytes:
    """Output that the log does not have: without an id, so that it comes again where it is lost."""
    return b"event: %b\ndata: %b\n\n" % (stream.encode(), _encode({"text": text}))


def result_frame(read: ExecutionRead) -> bytes:
    """The last event: the execution as it ended."""
    return b"event: result\ndata: %b\n\n" % _encode(read)
