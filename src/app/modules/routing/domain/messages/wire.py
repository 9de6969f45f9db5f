"""The Messages API: its requests, its answers and its events, as far as they are translated."""

from typing import Annotated

import msgspec
from msgspec import Meta

from app.modules.routing.domain.messages.reading import ABSENT
from app.modules.routing.domain.messages.usage import MessageUsage

Limit = Annotated[int, Meta(ge=0)]


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an image is: ``base64`` with ``media_type`` and ``data``, or ``url``."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Block(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block of a request's content; which members it has depends on its ``type``."""

    type: str
    text: str | None = None
    source: Source | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    cache_control: msgspec.Raw = ABSENT


class Turn(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = ABSENT
    strict: bool | None = None
    cache_control: msgspec.Raw = ABSENT


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    type: str
    schema: msgspec.Raw


class OutputConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class Edit(msgspec.Struct, frozen=True):
    type: str


class ContextManagement(msgspec.Struct, frozen=True):
    edits: list[Edit] | None = None


class MessagesRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    model: str
    max_tokens: Limit
    messages: list[Turn]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    stream: bool | None = None


class AnswerBlock(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block of an answer."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = ABSENT


class StopDetails(msgspec.Struct, frozen=True):
    explanation: str | None = None


class Error(msgspec.Struct, frozen=True):
    type: str = "api_error"
    message: str = ""


class ErrorAnswer(msgspec.Struct, frozen=True):
    """An error, as an answer and as an event."""

    error: Error
    type: str = "error"
    request_id: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """A whole answer, or the beginning of a streamed one."""

    id: str = ""
    model: str = ""
    content: list[AnswerBlock] = []
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: MessageUsage | None = None
    error: Error | None = None
    type: str = "message"


class Delta(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class StreamEvent(msgspec.Struct, frozen=True):
    """One event of a stream; which members it has depends on its ``type``."""

    type: str = ""
    index: int = 0
    message: Answer | None = None
    content_block: AnswerBlock | None = None
    delta: Delta | None = None
    usage: MessageUsage | None = None
    error: Error | None = None
