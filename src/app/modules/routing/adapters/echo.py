"""``dev/echo``: a model that repeats what it is told, so that a fresh installation answers.

It is deterministic and counts words as tokens. Its vectors come from a hash of the text: equal
texts have equal vectors, and nothing else about them means anything.
"""

import base64
import hashlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from app.modules.routing.domain.envelope import Surface
from app.modules.routing.ports import Answer, AnswerStream, Ask

MODEL = "dev/echo"
DIMENSIONS = 64
JSON = "application/json"


class _Options(msgspec.Struct):
    include_usage: bool | None = None


class _Request(msgspec.Struct):
    model: str
    messages: list[dict[str, Any]] = []
    prompt: Any = ""
    input: Any = ""
    stream_options: _Options | None = None
    encoding_format: str | None = None


class EchoUpstream:
    """Answers in OpenAI's shapes, in this process."""

    surfaces: frozenset[Surface] = frozenset({"chat/completions", "completions", "embeddings"})

    async def post(self, ask: Ask) -> Answer:
        surface, request = ask.surface, _decode(ask.body)
        if isinstance(request, Answer):
            return request
        if surface == "embeddings":
            return Answer(200, JSON, msgspec.json.encode(_embeddings(request)))
        text, usage = _reply(surface, request)
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
        if surface == "completions":
            choice["text"] = text
        else:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        whole = _frame(surface, request, [choice]) | {"usage": usage}
        return Answer(200, JSON, msgspec.json.encode(whole))

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        request = _decode(ask.body)
        if isinstance(request, Answer):
            return request
        events = _events(ask.surface, request)
        return AnswerStream(200, "text/event-stream", events, _nothing_to_cut)

    async def models(self) -> list[str]:
        return [MODEL]

    async def close(self) -> None:
        """Nothing is open."""


async def _nothing_to_cut() -> None:
    """The events end with their reader."""


def _decode(body: bytes) -> _Request | Answer:
    try:
        return msgspec.json.decode(body, type=_Request)
    except msgspec.DecodeError as error:
        message = {"message": str(error), "type": "invalid_request_error", "param": None}
        return Answer(400, JSON, msgspec.json.encode({"error": {**message, "code": None}}))


def _reply(surface: Surface, request: _Request) -> tuple[str, dict[str, int]]:
    if surface == "completions":
        prompt = _text(request.prompt)
    else:
        said = [m for m in request.messages if m.get("role") == "user"]
        prompt = _text(said[-1].get("content")) if said else ""
    text = f"Echo: {prompt}"
    told = len(_text([m.get("content") for m in request.messages]).split()) or len(prompt.split())
    return text, _usage(told, len(text.split()))


def _usage(told: int, said: int) -> dict[str, int]:
    return {"prompt_tokens": told, "completion_tokens": said, "total_tokens": told + said}


def _text(content: Any) -> str:
    """Flatten a string, a list of strings, or a list of content parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return _text(content.get("text", ""))
    if isinstance(content, list):
        return " ".join(text for part in content if (text := _text(part)))
    return ""


def _frame(surface: Surface, request: _Request, choices: list[dict[str, Any]]) -> dict[str, Any]:
    kind = "text_completion" if surface == "completions" else "chat.completion"
    digest = hashlib.sha256(msgspec.json.encode(request)).hexdigest()
    return {
        "id": f"echo-{digest[:24]}",
        "object": kind,
        "created": 0,
        "model": request.model,
        "choices": choices,
    }


async def _events(surface: Surface, request: _Request) -> AsyncIterator[bytes]:
    text, usage = _reply(surface, request)
    pieces = [word + " " for word in text.split(" ")]
    pieces[-1] = pieces[-1][:-1]
    for index, piece in enumerate(pieces):
        yield _event(surface, request, [_piece(surface, piece, is_first=index == 0)])
    yield _event(surface, request, [_piece(surface, "", is_last=True)])
    if request.stream_options and request.stream_options.include_usage:
        yield _event(surface, request, [], usage=usage)
    yield b"data: [DONE]\n\n"


def _piece(
    surface: Surface, text: str, *, is_first: bool = False, is_last: bool = False
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if is_last else None}
    if surface == "completions":
        return choice | {"text": text, "logprobs": None}
    role = {"role": "assistant"} if is_first else {}
    return choice | {"delta": role if is_last else role | {"content": text}, "logprobs": None}


def _event(
    surface: Surface, request: _Request, choices: list[dict[str, Any]], **extra: Any
) -> bytes:
    chunk = _frame(surface, request, choices) | extra
    if surface != "completions":
        chunk["object"] = "chat.completion.chunk"
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _embeddings(request: _Request) -> dict[str, Any]:
    texts = request.input if isinstance(request.input, list) else [request.input]
    data = []
    for index, text in enumerate(texts):
        vector = _vector(str(text))
        packed: Any = vector
        if request.encoding_format == "base64":
            packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": packed})
    told = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": told, "total_tokens": told}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}


def _vector(text: str) -> list[float]:
    """Unit vector from SHAKE-256 of the text."""
    raw = struct.unpack(f"<{DIMENSIONS}h", hashlib.shake_256(text.encode()).digest(DIMENSIONS * 2))
    length = sum(value * value for value in raw) ** 0.5 or 1.0
    return [value / length for value in raw]
