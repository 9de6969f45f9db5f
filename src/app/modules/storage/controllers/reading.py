"""What a request carries: a JSON document within a limit, or raw bytes and what is said of them."""

from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from litestar import Request

from app.kernel.errors import LengthRequired, TooLarge
from app.kernel.problems import BodyMalformed
from app.modules.storage.domain.digests import (
    BodyTruncated,
    Expected,
    parse_content_digest,
    parse_hex,
)

AnyRequest: TypeAlias = Request[Any, Any, Any]
T = TypeVar("T")

JSON_LIMIT_BYTES: Final = 2 * 2**20
LENGTH_LIMIT_DIGITS: Final = 18


class DocumentTooLarge(TooLarge):
    """A JSON document of this size is not read; raw bytes may be larger."""

    title = "Document too large"


async def read_json(request: AnyRequest, kind: type[T], limit_bytes: int = JSON_LIMIT_BYTES) -> T:
    """The body as a struct. ``DocumentTooLarge`` beyond the limit, ``BodyMalformed`` otherwise."""
    received = bytearray()
    async for chunk in chunks(request):
        received += chunk
        if len(received) > limit_bytes:
            raise DocumentTooLarge(f"A JSON document has {limit_bytes} bytes at most here.")
    try:
        return msgspec.json.decode(received, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BodyMalformed(f"The body is not what is expected here: {error}") from None


def expected(request: AnyRequest, *checksums: str) -> Expected:
    """What the headers say of a raw body; ``checksums`` are more of its SHA-256, as hex."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) <= LENGTH_LIMIT_DIGITS):
        raise LengthRequired("Say with Content-Length how many bytes come.")
    given = [parse_hex(text) for text in checksums]
    if (checksum := request.headers.get("x-checksum")) is not None:
        given.append(parse_hex(checksum))
    if (digest := request.headers.get("content-digest")) is not None:
        found = parse_content_digest(digest)
        given += [] if found is None else [found]
    return Expected(int(length), tuple(given))


async def chunks(request: AnyRequest) -> AsyncIterator[bytes]:
    """The raw body as it comes. ``BodyTruncated`` when its sender leaves half way."""
    is_more = True
    while is_more:
        event: Any = await request.receive()
        if event["type"] == "http.disconnect":
            raise BodyTruncated("The connection ended before the body did.")
        is_more = event.get("more_body", False)
        if body := event.get("body", b""):
            yield body
