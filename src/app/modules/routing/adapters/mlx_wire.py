"""OpenAI's requests and answers, as far as a local model can serve them.

What cannot be kept is refused: a caller that asks for a JSON schema and gets prose has been told
nothing. Fields that nobody knows pass by.
"""

import base64
import struct
from collections.abc import Iterable
from time import time
from typing import Annotated, Any, Literal, TypeAlias
from uuid import uuid4

import msgspec
from msgspec import Meta

from app.modules.routing.adapters.mlx_jobs import (
    Chat,
    Delta,
    EmbedJob,
    Ended,
    Refusal,
    ReplyJob,
    Sampling,
    ToolCall,
    Vectors,
)

STOPS_LIMIT = 16
INPUTS_LIMIT = 2_048

Tokens: TypeAlias = Annotated[int, Meta(ge=1)]
Seed: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Json: TypeAlias = dict[str, Any]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Part(msgspec.Struct, frozen=True):
    """A piece of a message. Only text is understood."""

    type: str
    text: str = ""


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str = "{}"


class Called(msgspec.Struct, frozen=True):
    """A call that the assistant made earlier."""

    id: str
    function: CalledFunction
    type: str = "function"


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: Json | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    """The choice of one tool."""

    function: NamedFunction
    type: Literal["function"] = "function"


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str


class ReplyCreate(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat and a completion have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    n: Literal[1] | None = None
    logit_bias: dict[Annotated[int, Meta(ge=0)], float] | None = None

    @property
    def has_usage_chunk(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_tokens: int | None) -> Sampling:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > STOPS_LIMIT:
            raise Refusal(f"stop has more than {STOPS_LIMIT} texts.", param="stop")
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stops=tuple(stop for stop in stops if stop),
            bias=self.logit_bias or {},
        )


class ChatCreate(ReplyCreate, frozen=True, kw_only=True):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Tokens | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    logprobs: Literal[False] | None = None

    def job(self) -> ReplyJob:
        if self.response_format is not None and self.response_format.type != "text":
            text = "A local model cannot be held to a response format."
            raise Refusal(text, param="response_format", code="unsupported_parameter")
        tools = self._offered()
        must_call = self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)
        if must_call and not tools:
            raise Refusal("tool_choice asks for a tool that is not there.", param="tool_choice")
        chat = Chat(
            [_message(said) for said in self.messages],
            tools=tools,
            must_call=must_call,
            # A thought before the call could not be told from the call's own text.
            may_think=self.reasoning_effort != "none" and not must_call,
        )
        return ReplyJob(chat, self.sampling(self.max_completion_tokens or self.max_tokens))

    def _offered(self) -> list[Json] | None:
        if self.tool_choice == "none":
            return None
        chosen = self.tool_choice
        wanted = chosen.function.name if isinstance(chosen, NamedTool) else None
        offered = [tool for tool in self.tools or [] if wanted in (None, tool.function.name)]
        return [msgspec.to_builtins(tool) for tool in offered] or None


class CompletionCreate(ReplyCreate, frozen=True, kw_only=True):
    """Body of ``POST /v1/completions``."""

    prompt: str | list[str | int | list[int]]
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None
    logprobs: None = None

    def job(self) -> ReplyJob:
        prompts = _several(self.prompt, "prompt")
        if len(prompts) != 1:
            raise Refusal("A local model takes one prompt at a time.", param="prompt")
        return ReplyJob(prompts[0], self.sampling(self.max_tokens))


class EmbeddingCreate(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /v1/embeddings``."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None

    def job(self) -> EmbedJob:
        return EmbedJob(_several(self.input, "input"))

    def answer(self, made: Vectors) -> Json:
        packed: Iterable[Any] = made.rows
        if self.encoding_format == "base64":
            packed = (base64.b64encode(struct.pack(f"<{len(r)}f", *r)).decode() for r in made.rows)
        data = [
            {"object": "embedding", "index": index, "embedding": row}
            for index, row in enumerate(packed)
        ]
        usage = {"prompt_tokens": made.prompt_tokens, "total_tokens": made.prompt_tokens}
        return {"object": "list", "data": data, "model": self.model, "usage": usage}


class Frames:
    """Puts the events of one reply into OpenAI's words. What all chunks share is said once."""

    def __init__(self, request: ChatCreate | CompletionCreate) -> None:
        self._is_chat = isinstance(request, ChatCreate)
        self._has_usage = request.has_usage_chunk
        self._calls = 0
        self._shared = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid4().hex}",
            "created": int(time()),
            "model": request.model,
        }

    def opening(self) -> list[Json]:
        """Return the chunk that says who speaks; a completion has none."""
        return [self._chunk({"role": "assistant", "content": ""})] if self._is_chat else []

    def piece(self, delta: Delta) -> Json:
        if not self._is_chat:
            return self._chunk({"text": delta.content})
        if delta.call is not None:
            call = {"index": self._calls} | _call(delta.call)
            self._calls += 1
            return self._chunk({"tool_calls": [call]})
        if delta.reasoning:
            return self._chunk({"reasoning_content": delta.reasoning})
        return self._chunk({"content": delta.content})

    def closing(self, ended: Ended) -> list[Json]:
        last = self._chunk({} if self._is_chat else {"text": ""}, ended.reason)
        if not self._has_usage:
            return [last]
        return [last, self._head("chunk") | {"choices": [], "usage": _usage(ended)}]

    def whole(self, deltas: list[Delta], ended: Ended) -> Json:
        """Return the answer that is not streamed."""
        text = "".join(delta.content for delta in deltas)
        choice: Json = {"index": 0, "finish_reason": ended.reason, "logprobs": None}
        if self._is_chat:
            choice["message"] = _said(text, deltas)
        else:
            choice["text"] = text
        return self._head("") | {"choices": [choice], "usage": _usage(ended)}

    def _chunk(self, delta: Json, reason: str | None = None) -> Json:
        choice: Json = {"index": 0, "finish_reason": reason, "logprobs": None}
        choice |= {"delta": delta} if self._is_chat else delta
        usage = {"usage": None} if self._has_usage else {}
        return self._head("chunk") | {"choices": [choice]} | usage

    def _head(self, form: str) -> Json:
        if not self._is_chat:
            return {"object": "text_completion", **self._shared}
        return {"object": f"chat.completion.{form}".rstrip("."), **self._shared}


def error_body(refusal: Refusal) -> bytes:
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    error = {"message": str(refusal), "type": kind, "param": refusal.param, "code": refusal.code}
    return msgspec.json.encode({"error": error})


def _several(given: str | list[Any], param: str) -> Any:
    """Return a list of texts or a list of lists of tokens, whichever form was used."""
    if isinstance(given, str):
        return [given]
    if len(given) > INPUTS_LIMIT and not isinstance(given[0], int):
        raise Refusal(f"{param} has more than {INPUTS_LIMIT} entries.", param=param)
    kinds = {type(entry) for entry in given}
    if kinds == {int}:
        return [given]
    if kinds in ({str}, {list}):
        return given
    raise Refusal(f"{param} must be a text, texts, tokens or lists of tokens.", param=param)


def _message(said: Message) -> Json:
    """Return a message as chat templates expect it: text, and arguments as an object."""
    message: Json = {"role": "system" if said.role == "developer" else said.role}
    message["content"] = _content(said.content)
    for name in ("name", "tool_call_id"):
        if (value := getattr(said, name)) is not None:
            message[name] = value
    if said.tool_calls:
        message["tool_calls"] = [_called(call) for call in said.tool_calls]
    return message


def _content(content: str | list[Part] | None) -> str:
    if isinstance(content, list):
        if any(part.type != "text" for part in content):
            raise Refusal("A local model reads text only.", param="messages")
        return "".join(part.text for part in content)
    return content or ""


def _called(call: Called) -> Json:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}")
    except msgspec.DecodeError:
        raise Refusal("A tool call's arguments are no JSON.", param="messages") from None
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _said(text: str, deltas: list[Delta]) -> Json:
    calls = [_call(delta.call) for delta in deltas if delta.call is not None]
    message: Json = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = calls
    if thought := "".join(delta.reasoning for delta in deltas):
        message["reasoning_content"] = thought
    return message


def _usage(ended: Ended) -> Json:
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": ended.reasoning_tokens},
    }
