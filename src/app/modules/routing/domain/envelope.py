"""The envelope of a request: the few members that are ours.

Everything else is between the caller and the model, and is passed on byte for byte.
"""

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from app.kernel.errors import Invalid
from app.modules.routing.domain.responses.ids import call_of

Surface = Literal["chat/completions", "completions", "embeddings", "responses", "messages"]

Count = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]

MODEL_VALUE = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')
OBJECT_START = re.compile(rb"\s*\{")
ASK_FOR_USAGE: Final = b'{"stream_options":{"include_usage":true},'
# Members of OpenRouter's, which strict servers refuse.
ROUTING_MEMBERS: Final = frozenset({"models", "provider"})
MODELS_LIMIT = 16
SHORT_BYTES = 16


class BadEnvelope(Invalid):
    """The body is not what an OpenAI client sends."""

    title = "Invalid request body"


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Envelope(msgspec.Struct, frozen=True):
    """What decides where a call goes, what it may cost, and how its stream ends.

    Some members are here to be refused where they cannot be meant: not every upstream looks.
    """

    model: str = ""
    models: list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    max_output_tokens: Count | None = None
    n: Count | None = None
    temperature: int | float | None = None
    top_p: int | float | None = None
    messages: msgspec.Raw = msgspec.Raw()
    tools: list[msgspec.Raw] | None = None
    previous_response_id: str | None = None
    provider: msgspec.Raw = msgspec.Raw()
    user: msgspec.Raw = msgspec.Raw()
    prompt_cache_key: msgspec.Raw = msgspec.Raw()
    session_id: msgspec.Raw = msgspec.Raw()

    @property
    def names(self) -> list[str]:
        """The models to try, the first one first."""
        further = self.models or []
        return list(dict.fromkeys([self.model, *further] if self.model else further))

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def has_routing(self) -> bool:
        """Whether members are in the body that only OpenRouter and we understand."""
        return self.models is not None or bytes(self.provider) not in {b"", b"null"}

    @property
    def has_empty_messages(self) -> bool:
        """Whether there is a list of messages, with nothing in it. Long ones are not looked at."""
        given = memoryview(self.messages)
        return 0 < len(given) <= SHORT_BYTES and not bytes(given).strip(b"[] \t\r\n")

    @property
    def has_tools(self) -> bool:
        return bool(self.tools)

    @property
    def goes_on_with_ours(self) -> bool:
        """Whether it refers to a response that was made here, and no upstream knows."""
        return call_of(self.previous_response_id or "") is not None

    @property
    def conversation(self) -> bytes:
        """What marks calls that belong together, as the caller says; ``b""`` if nothing does."""
        for raw in (self.session_id, self.prompt_cache_key, self.user):
            if (mark := bytes(raw)) not in {b"", b"null", b'""'}:
                return mark
        return b""

    def output_limit(self, otherwise: int) -> int:
        """The most tokens that the answer may have, over all choices."""
        asked = self.max_completion_tokens or self.max_tokens or self.max_output_tokens
        return int(asked or otherwise) * max(1, int(self.n or 1))


_envelope = msgspec.json.Decoder(Envelope)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_envelope(body: bytes) -> Envelope:
    """Decode what is ours; everything else is checked for being JSON."""
    try:
        envelope = _envelope.decode(body)
    except msgspec.ValidationError as error:
        raise BadEnvelope(f"{error}. The body needs a string `model`.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadEnvelope(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise BadEnvelope("The body is nested too deeply.") from None
    if envelope.has_empty_messages:
        raise BadEnvelope("`messages` is empty; there is nothing to answer.", param="messages")
    if envelope.models is not None and len(envelope.models) > MODELS_LIMIT:
        raise BadEnvelope(f"`models` may name {MODELS_LIMIT} models at most.", param="models")
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
    return _changed(body, {"model": value})


def asking_for_usage(body: bytes, envelope: Envelope) -> bytes:
    """Ask a stream to end with its usage, keeping what else the caller wants of it."""
    if envelope.stream_options is None:
        start = OBJECT_START.match(body)
        if start is not None and b'"stream_options"' not in body:
            return ASK_FOR_USAGE + body[start.end() :]
    given = _members.decode(body).get("stream_options", b"null")
    options = {} if bytes(given) == b"null" else _members.decode(given)
    wanted = msgspec.json.encode(options | {"include_usage": msgspec.Raw(b"true")})
    return _changed(body, {"stream_options": wanted})


def without(body: bytes, names: frozenset[str]) -> bytes:
    """Take members out of a body."""
    members = _members.decode(body)
    return msgspec.json.encode({k: v for k, v in members.items() if k not in names})


def renamed(body: bytes, old: str, new: str) -> bytes:
    """Give a member another name, if it is there."""
    members = _members.decode(body)
    if old not in members:
        return body
    return msgspec.json.encode({new if k == old else k: v for k, v in members.items()})


def _changed(body: bytes, changes: dict[str, bytes]) -> bytes:
    members = _members.decode(body)
    return msgspec.json.encode(members | {k: msgspec.Raw(v) for k, v in changes.items()})
