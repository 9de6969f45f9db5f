"""Embeddings of the Gemini API, asked and answered as OpenAI has them."""

import base64
import struct
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.modules.routing.domain.envelope import ROUTING_MEMBERS
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.google.answers import Told
from app.modules.routing.domain.google.wire import Content, Count, Part
from app.modules.routing.domain.messages.reading import (
    BadMember,
    decoded,
    members_of,
    refuse_unmapped,
    understood,
)
from app.modules.routing.domain.unmappable import Unmappable

# The most that one batch may have at Google.
INPUTS_LIMIT: Final = 100
SERVER: Final = "The Gemini API"


class _Asked(msgspec.Struct, frozen=True):
    input: str | list[msgspec.Raw]
    dimensions: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class _Embed(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    model: str
    content: Content
    output_dimensionality: int | None = None


class _Batch(msgspec.Struct, frozen=True):
    requests: list[_Embed]


class _Embedding(msgspec.Struct, frozen=True):
    values: list[float]


class _Usage(msgspec.Struct, frozen=True, rename="camel"):
    prompt_token_count: Count | None = None


class _Embedded(msgspec.Struct, frozen=True, rename="camel"):
    embeddings: list[_Embedding]
    usage_metadata: _Usage | None = None


class _Vector(msgspec.Struct, frozen=True):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class _ChatUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Vector]
    model: str
    usage: _ChatUsage | UnsetType
    object: str = "list"


KNOWN: Final = ROUTING_MEMBERS | {"model", "user", *_Asked.__struct_fields__}

_asked = msgspec.json.Decoder(_Asked)
_embedded = msgspec.json.Decoder(_Embedded)
_text = msgspec.json.Decoder(str)


def embed_request(body: bytes, path: str) -> bytes:
    """Translate a request for vectors. ``path`` is the model's, as ``models/gemini-embedding``."""
    asked = _read(body)
    inputs = [asked.input] if isinstance(asked.input, str) else _texts(asked.input)
    requests = [_Embed(path, Content(parts=[Part(text=text)]), asked.dimensions) for text in inputs]
    return msgspec.json.encode(_Batch(requests))


def embed_answer(body: bytes, asked: bytes, model: str) -> Told:
    """Translate the answer to the request ``asked``, which says how vectors are to be written."""
    found = understood(_embedded, body)
    is_packed = _read(asked).encoding_format == "base64"
    data = [
        _Vector(index, _packed(vector.values) if is_packed else vector.values)
        for index, vector in enumerate(found.embeddings)
    ]
    count = found.usage_metadata.prompt_token_count if found.usage_metadata else None
    usage = UNSET if count is None else _ChatUsage(count, count)
    return Told(200, msgspec.json.encode(_Answer(data, model, usage)))


def _read(body: bytes) -> _Asked:
    refuse_unmapped(members_of(body), KNOWN, {}, SERVER)
    return decoded(_asked, body)


def _texts(given: list[msgspec.Raw]) -> list[str]:
    if not given:
        raise BadMember("`input` is empty.", param="input")
    if len(given) > INPUTS_LIMIT:
        text = f"{SERVER} takes {INPUTS_LIMIT} texts at a time; send several requests."
        raise Unmappable(text, param="input")
    if not all(bytes(item).startswith(b'"') for item in given):
        raise Unmappable(f"{SERVER} takes texts, and no tokens.", param="input")
    return [decoded(_text, bytes(item)) for item in given]


def _packed(values: list[float]) -> str:
    """Little-endian 32-bit floats in base64, as OpenAI writes them."""
    try:
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    except (OverflowError, struct.error):
        raise UpstreamNonsense("The server's vector has a number beyond all bounds.") from None
