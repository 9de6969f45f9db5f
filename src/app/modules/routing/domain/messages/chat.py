"""OpenAI's chat completions: requests, answers and chunks, as far as they are translated."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.modules.routing.domain.messages.reading import ABSENT
from app.modules.routing.domain.messages.usage import MessageUsage, OutputDetails

Limit = Annotated[int, Meta(ge=0)]


class ImageUrl(msgspec.Struct, frozen=True):
    url: str


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of a message; which members it has depends on its ``type``.

    ``cache_control`` is Anthropic's, which several servers take in chat completions too.
    """

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    cache_control: msgspec.Raw = ABSENT


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    function: CalledFunction | None = None
    type: str = "function"


class ReasoningDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """A thought that may be handed back, in OpenRouter's form.

    ``reasoning.text`` has ``text`` and ``signature``, ``reasoning.encrypted`` has ``data``.
    """

    type: str
    text: str | None = None
    signature: str | None = None
    data: str | None = None
    format: str | None = None
    index: int | None = None


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str | list[Part] | UnsetType | None = UNSET
    name: str | None = None
    refusal: str | None = None
    reasoning_details: list[ReasoningDetail] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    audio: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None


class ChatTool(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    function: Function | None = None
    cache_control: msgspec.Raw = ABSENT


class FunctionName(msgspec.Struct, frozen=True):
    name: str


class ChatToolChoice(msgspec.Struct, frozen=True):
    type: str
    function: FunctionName | None = None


class JsonSchema(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    model: str
    messages: list[ChatMessage]
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    tools: list[ChatTool] | None = None
    tool_choice: str | ChatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class PromptDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    cached_tokens: int | None = None
    cache_creation_tokens: int | None = None


class CompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class ChatUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one call; the cached ones are within the prompt's."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @classmethod
    def of(cls, usage: MessageUsage | None) -> "ChatUsage | None":
        """Count as OpenAI does. ``None`` where nothing is told: no usage is not a usage of 0."""
        if usage is None or usage == MessageUsage():
            return None
        prompt, completion, thought = (
            usage.prompt_tokens,
            usage.output_tokens,
            usage.thinking_tokens,
        )
        details = PromptDetails(usage.cache_read_tokens, usage.cache_write_tokens)
        return cls(
            prompt,
            completion,
            None if prompt is None or completion is None else prompt + completion,
            None if details == PromptDetails() else details,
            None if thought is None else CompletionDetails(thought),
        )

    def as_messages(self) -> MessageUsage:
        """Count as Anthropic does, whose shape has a number where nothing is told, too."""
        details = self.prompt_tokens_details or PromptDetails()
        read, written = details.cached_tokens, details.cache_creation_tokens
        fresh = (self.prompt_tokens or 0) - (read or 0) - (written or 0)
        thought = self.completion_tokens_details
        return MessageUsage(
            max(0, fresh),
            self.completion_tokens or 0,
            read,
            written,
            OutputDetails(thought.reasoning_tokens) if thought else None,
        )


class AnswerMessage(msgspec.Struct, frozen=True):
    """What an upstream has said. ``reasoning`` is the name of some for ``reasoning_content``."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(msgspec.Struct, frozen=True):
    """``stop_reason`` is vLLM's: the stop sequence that was met, or a token's number."""

    message: AnswerMessage
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class ChatError(msgspec.Struct, frozen=True):
    """``code`` is a word at OpenAI, a status at OpenRouter."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class ChatAnswer(msgspec.Struct, frozen=True):
    id: str = ""
    choices: list[Choice] = []
    usage: ChatUsage | None = None
    error: ChatError | str | None = None
    request_id: str | None = None


class FunctionPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class CallPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionPiece | None = None


class Piece(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the message."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallPiece] | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    delta: Piece | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


class Chunk(msgspec.Struct, frozen=True):
    id: str = ""
    choices: list[ChunkChoice] = []
    usage: ChatUsage | None = None
    error: ChatError | str | None = None
