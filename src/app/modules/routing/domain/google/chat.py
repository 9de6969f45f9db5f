"""OpenAI's chat completions, as far as they are translated to Gemini and back."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.modules.routing.domain.google.wire import Count
from app.modules.routing.domain.messages.reading import ABSENT

Whole = Annotated[int, Meta(ge=-(2**53), le=2**53)]


class GoogleExtra(msgspec.Struct, frozen=True, omit_defaults=True):
    """What Gemini wants back as it was: its own sealed record of why it said something."""

    thought_signature: str | None = None


class ExtraContent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where Google's own OpenAI endpoint keeps what OpenAI's format has no place for."""

    google: GoogleExtra | None = None

    @property
    def signature(self) -> str | None:
        return self.google.thought_signature if self.google else None


class ImageUrl(msgspec.Struct, frozen=True):
    url: str


class InputAudio(msgspec.Struct, frozen=True):
    data: str
    format: str


class File(msgspec.Struct, frozen=True):
    file_data: str | None = None


class Part(msgspec.Struct, frozen=True):
    """A piece of a message; which members it has depends on its ``type``."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    input_audio: InputAudio | None = None
    file: File | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """``index`` is for streams only."""

    id: str
    function: CalledFunction | None = None
    type: str = "function"
    index: int | UnsetType = UNSET
    extra_content: ExtraContent | UnsetType | None = UNSET

    @property
    def signature(self) -> str | None:
        return self.extra_content.signature if self.extra_content else None


class ChatMessage(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    extra_content: ExtraContent | None = None
    audio: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT


class Function(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = ABSENT


class ChatTool(msgspec.Struct, frozen=True):
    type: str
    function: Function | None = None


class FunctionName(msgspec.Struct, frozen=True):
    name: str


class ToolChoice(msgspec.Struct, frozen=True):
    type: str
    function: FunctionName | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    schema: msgspec.Raw = ABSENT


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    model: str
    messages: list[ChatMessage]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Count | None = None
    seed: Whole | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    tools: list[ChatTool] | None = None
    tool_choice: str | ToolChoice | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None


class Said(msgspec.Struct, frozen=True):
    """A message of the model, whole or a piece of it."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    images: list["Image"] | UnsetType = UNSET
    extra_content: ExtraContent | UnsetType = UNSET


class Image(msgspec.Struct, frozen=True):
    """A picture that the model made, as a data URL; the form is OpenRouter's."""

    image_url: ImageUrl
    type: str = "image_url"


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[TokenLogprob]
    refusal: None = None


class Choice(msgspec.Struct, frozen=True):
    """``message`` in a whole answer, ``delta`` in a stream."""

    index: int
    message: Said | UnsetType = UNSET
    delta: Said | UnsetType = UNSET
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    audio_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int
    audio_tokens: int


class ChatUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Completion(msgspec.Struct, frozen=True):
    """A whole answer, or a chunk of one, by ``object``."""

    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage | UnsetType = UNSET


class ChatError(msgspec.Struct, frozen=True):
    """``code`` is a word, or in a stream, which has no status, the status."""

    message: str
    type: str
    code: str | int
    param: None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """OpenAI's envelope; what a failed answer has cost is told all the same."""

    error: ChatError
    usage: ChatUsage | UnsetType = UNSET
