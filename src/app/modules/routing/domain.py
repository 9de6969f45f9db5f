"""Decisions of routing, without waiting: names, prices, and what an answer says of its usage."""

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Literal

import msgspec

from app.kernel.errors import Invalid, NotFound

Surface = Literal["chat/completions", "completions", "embeddings"]

MODEL_VALUE = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')
TAIL_BYTES = 32_768
FREE = "free"
LOCAL_UPSTREAMS = frozenset({"dev", "llmd", "mlx"})


class ModelNotFound(NotFound):
    """No such model, or not for this key."""

    title = "Model not found"


class BadEnvelope(Invalid):
    """The body is not what an OpenAI client sends."""

    title = "Invalid request body"


class Envelope(msgspec.Struct, frozen=True):
    """The part of a request body that is ours. The rest is between the caller and the model."""

    model: str
    stream: bool | None = None


class Price(msgspec.Struct, frozen=True):
    """Micro-units of ``currency`` for a million tokens: 150 000 is 0.15 a million."""

    version: str
    currency: str
    input_micros: int
    output_micros: int
    cached_input_micros: int | None = None


class TokenDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Tokens(msgspec.Struct, frozen=True):
    """The ``usage`` member of an OpenAI answer."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    completion_tokens_details: TokenDetails | None = None

    @property
    def cached(self) -> int | None:
        details = self.prompt_tokens_details
        return details.cached_tokens if details else None

    @property
    def reasoning(self) -> int | None:
        details = self.completion_tokens_details
        return details.reasoning_tokens if details else None


class AnswerPart(msgspec.Struct, frozen=True):
    """The part of an answer, or of one stream event, that is ours."""

    usage: Tokens | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def has_error(self) -> bool:
        return bytes(self.error) not in {b"", b"null"}


_envelope = msgspec.json.Decoder(Envelope)
_answer_part = msgspec.json.Decoder(AnswerPart)


def read_envelope(body: bytes) -> Envelope:
    """Decode model and stream; everything else is checked for being JSON and passed on."""
    try:
        envelope = _envelope.decode(body)
    except msgspec.ValidationError as error:
        raise BadEnvelope(f"{error}. The body needs a string `model`.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadEnvelope(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise BadEnvelope("The body is nested too deeply.") from None
    if not envelope.model:
        raise BadEnvelope("`model` is empty; GET /v1/models lists the names.")
    return envelope


def with_model(body: bytes, model: str) -> bytes:
    """Put another model name into a body, touching no other byte where that is possible.

    The first ``"model"`` in the text may be a nested one, so the result is checked; when it is
    not the top-level one, the body is decoded and encoded again.
    """
    value = msgspec.json.encode(model)
    found = MODEL_VALUE.search(body)
    if found is not None:
        spliced = body[: found.start(1) - 1] + value + body[found.end(1) + 1 :]
        if _envelope.decode(spliced).model == model:
            return spliced
    members: dict[str, msgspec.Raw] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(members | {"model": msgspec.Raw(value)})


def read_answer(body: bytes) -> AnswerPart | None:
    """Decode usage and error of a whole answer; ``None`` when it is not a JSON object."""
    try:
        return _answer_part.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class StreamTail:
    """Remembers the end of an event stream, where usage, errors and ``[DONE]`` stand."""

    __slots__ = ("_before", "_chunks", "_size", "is_done")

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._before = b""
        self.is_done = False

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes; answer whether they complete the stream."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        while self._size - len(self._chunks[0]) >= TAIL_BYTES:
            self._size -= len(self._chunks.popleft())
        if not self.is_done and b"[DONE]" in self._before + chunk:
            self.is_done = True
            return True
        self._before = chunk[-5:] if len(chunk) >= 5 else (self._before + chunk)[-5:]
        return False

    def read(self) -> AnswerPart:
        """The last event with a usage or an error in it; an empty one when none has."""
        telling = (part for part in self._parts() if part.usage is not None or part.has_error)
        return next(telling, AnswerPart())

    def _parts(self) -> Iterator[AnswerPart]:
        for line in reversed(b"".join(self._chunks).splitlines()):
            if line.startswith(b"data:") and (part := read_answer(line[5:].strip())):
                yield part


def cost_nanos(tokens: Tokens | None, price: Price | None) -> int | None:
    """Cost in billionths of the currency's unit, rounded half up; ``None`` when not known."""
    if tokens is None or price is None or tokens.prompt_tokens is None:
        return None
    cached = min(tokens.cached or 0, tokens.prompt_tokens)
    cached_micros = price.cached_input_micros
    micros = (
        (tokens.prompt_tokens - cached) * price.input_micros
        + cached * (price.input_micros if cached_micros is None else cached_micros)
        + (tokens.completion_tokens or 0) * price.output_micros
    )
    return (micros + 500) // 1000


def qualified(upstream: str, model: str) -> str:
    """The name that always finds a model: ``groq/llama-3.3-70b``."""
    return model if model.startswith(f"{upstream}/") else f"{upstream}/{model}"


def public_name(upstream: str, model: str, taken: Collection[str]) -> str:
    """The name a discovered model gets: its own, or with its upstream's before it.

    Models of this machine always say where they run; a taken name stays its first owner's.
    """
    if upstream in LOCAL_UPSTREAMS or model in taken:
        return qualified(upstream, model)
    return model


def base_url(given: str) -> str:
    """A server's OpenAI root: ``http://host`` and ``http://host/v1`` mean the same."""
    scheme, found, rest = given.strip().rstrip("/").partition("://")
    if not found or scheme not in {"http", "https"} or not rest:
        raise ValueError(f"{given!r} is not an http:// or https:// URL")
    return f"{scheme}://{rest}" if "/" in rest else f"{scheme}://{rest}/v1"


def ollama_url(given: str) -> str:
    """Read OLLAMA_HOST as Ollama itself does: scheme and port may be missing."""
    scheme, _, rest = given.rpartition("://")
    host = rest.rstrip("/")
    return f"{scheme or 'http'}://{host}" if ":" in host else f"{scheme or 'http'}://{host}:11434"


def kind_of(model: str) -> str:
    """Guess from its name whether a model embeds; upstreams do not say."""
    return "embedding" if re.search(r"embed|bge|e5-|gte-", model, re.I) else "chat"


def close_names(wanted: str, names: Iterable[str]) -> list[str]:
    """Up to three names that look like ``wanted``, for a helpful 404."""
    bare = wanted.rsplit("/", 1)[-1].lower()
    return [name for name in sorted(names) if bare and bare in name.lower()][:3]
