"""Chat completions, as far as they are written and read here."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from app.modules.routing.domain.answers import ChatWire, Tokens
from app.modules.routing.domain.faults import UpstreamNonsense


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ImageUrl(msgspec.Struct, frozen=True, omit_defaults=True):
    url: str
    detail: str | None = None


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    file_data: str
    filename: str | None = None


class FilePart(msgspec.Struct, frozen=True, tag_field="type", tag="file"):
    file: File


ChatPart: TypeAlias = TextPart | ImagePart | FilePart


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a request. ``content`` is ``null`` where there is none."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | Sequence[ChatPart] | None
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str | None = None


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class Logprob(TopLogprob, frozen=True):
    """How likely a token was, and which others could have stood there."""

    top_logprobs: list[TopLogprob] | None = None

    def spelled_out(self) -> "Logprob":
        """Say the bytes too: chat completions may leave them out, responses may not."""
        others = [TopLogprob(o.token, o.logprob, _bytes(o)) for o in self.top_logprobs or ()]
        return Logprob(self.token, self.logprob, _bytes(self), others)


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[Logprob] | None = None


class _Piece(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    thinking: "list[_Piece] | None" = None


class _SaidFunction(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class SaidCall(msgspec.Struct, frozen=True):
    """A tool call of an answer, or a piece of one; ``index`` says of which."""

    index: int | None = None
    id: str | None = None
    function: _SaidFunction | None = None

    @property
    def name(self) -> str:
        return (self.function and self.function.name) or ""

    @property
    def arguments(self) -> str:
        return (self.function and self.function.arguments) or ""


class Said(msgspec.Struct, frozen=True):
    """The model's message, or a piece of it."""

    content: str | list[_Piece] | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[SaidCall] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(piece.text for piece in self.content)
        return self.content or ""

    @property
    def thoughts(self) -> str:
        """Servers disagree on the member's name, and Mistral's puts them among the content."""
        if isinstance(self.content, list):
            return "".join(inner.text for piece in self.content for inner in piece.thinking or ())
        told = self.reasoning_content or self.reasoning
        return told if isinstance(told, str) else ""


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    message: Said | None = None
    delta: Said | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct, frozen=True):
    model: str | None = None
    choices: list[_Choice] | None = None
    service_tier: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class _ErrorObject(msgspec.Struct, frozen=True):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class Trouble(msgspec.Struct, frozen=True):
    """What a server says went wrong."""

    message: str
    code: str | None = None
    param: str | None = None
    is_rate_limit: bool = False


class Chunk(msgspec.Struct, frozen=True):
    """A whole answer, or one event of a stream: of its first choice, since one is asked for."""

    said: Said = Said()
    logprobs: Sequence[Logprob] = ()
    finish_reason: str | None = None
    model: str = ""
    service_tier: str | None = None
    tokens: Tokens | None = None
    trouble: Trouble | None = None


_completion = msgspec.json.Decoder(_Completion)
_error = msgspec.json.Decoder(_ErrorObject)
_usage = ChatWire()


def read_chunk(data: bytes, *, is_whole: bool = False) -> Chunk:
    """Read an answer or an event of one. ``UpstreamNonsense`` for what is neither."""
    try:
        found = _completion.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = f"The model's answer is no chat completion: {error}."
        raise UpstreamNonsense(text) from None
    trouble = _trouble(bytes(found.error))
    choice = next((one for one in found.choices or () if one.index == 0), None)
    if is_whole and choice is None and trouble is None:
        raise UpstreamNonsense("The model's answer has no choices.")
    choice = choice or _Choice()
    told = choice.logprobs.content if choice.logprobs else None
    return Chunk(
        said=(choice.message if is_whole else choice.delta) or Said(),
        logprobs=[one.spelled_out() for one in told or ()],
        finish_reason=choice.finish_reason,
        model=found.model or "",
        service_tier=found.service_tier,
        tokens=_usage.read(data).tokens if b'"usage"' in data else None,
        trouble=trouble,
    )


def _trouble(raw: bytes) -> Trouble | None:
    if raw in {b"", b"null"}:
        return None
    try:
        told = _error.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Trouble("The model's server reported an error without saying which.")
    code = None if told.code is None else str(told.code)
    is_rate_limit = code == "429" or "rate_limit" in f"{told.type} {code}"
    message = told.message or "The model's server reported an error without saying which."
    return Trouble(message, code or told.type, told.param, is_rate_limit)


def _bytes(token: TopLogprob) -> list[int]:
    return list(token.token.encode()) if token.bytes is None else token.bytes
