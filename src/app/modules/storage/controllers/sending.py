"""Answers with bytes: all of them, a part, or none because the reader has them already."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.status_codes import HTTP_200_OK, HTTP_206_PARTIAL_CONTENT, HTTP_304_NOT_MODIFIED
from litestar.types import Receive, Send

from app.modules.storage.controllers.reading import AnyRequest
from app.modules.storage.domain.ranges import Span, holds, is_known, span_of

OCTETS: Final = "application/octet-stream"
# Who keeps an answer asks each time whether it is still the current one.
CACHING: Final = "private, no-cache"


class Download(msgspec.Struct, frozen=True):
    """Bytes that can be sent in part. ``etag`` is quoted.

    ``headers`` go with every answer, ``whole`` only with one that has all bytes. ``read`` gives
    the bytes from a first one up to, not including, a last one; ``inline`` has them at hand.
    """

    etag: str
    size_bytes: int
    headers: Mapping[str, str]
    read: Callable[[int, int], AsyncGenerator[bytes, None]]
    whole: Mapping[str, str] = {}
    inline: bytes | None = None


class Streamed(ASGIStreamingResponse):
    """Closes what it reads from, however it ends: its reader may leave at any byte."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], **options: Any) -> None:
        super().__init__(iterator=chunks, media_type=OCTETS, **options)
        self._chunks = chunks

    async def send_body(self, send: Send, receive: Receive) -> None:
        async with aclosing(self._chunks):
            await super().send_body(send, receive)


def send(request: AnyRequest, download: Download, *, is_unchanged: bool = False) -> ASGIResponse:
    """Answer GET and HEAD as the headers of the request ask.

    ``is_unchanged``: the caller has found, by other headers, that the reader has it already.
    """
    headers = {"etag": download.etag, "cache-control": CACHING, **download.headers}
    if is_unchanged or is_known(request.headers.get("if-none-match"), download.etag):
        return ASGIResponse(status_code=HTTP_304_NOT_MODIFIED, headers=headers)
    headers["accept-ranges"] = "bytes"
    span = _span(request, download)
    if span is None:
        return _send(request, download, Span(0, download.size_bytes), {**headers, **download.whole})
    headers["content-range"] = span.content_range(download.size_bytes)
    return _send(request, download, span, headers, HTTP_206_PARTIAL_CONTENT)


def _span(request: AnyRequest, download: Download) -> Span | None:
    """HEAD has no ranges: it answers what GET without one would."""
    text = request.headers.get("range")
    if text is None or request.method != "GET":
        return None
    if not holds(request.headers.get("if-range"), download.etag):
        return None
    return span_of(text, download.size_bytes)


def _send(
    request: AnyRequest,
    download: Download,
    span: Span,
    headers: dict[str, str],
    status: int = HTTP_200_OK,
) -> ASGIResponse:
    headers["content-length"] = str(span.end - span.start)
    if request.method == "HEAD":
        headers["content-type"] = OCTETS
        return ASGIResponse(is_head_response=True, status_code=status, headers=headers)
    if download.inline is not None:
        part = download.inline[span.start : span.end]
        return ASGIResponse(body=part, status_code=status, headers=headers, media_type=OCTETS)
    chunks = download.read(span.start, span.end)
    return Streamed(chunks, status_code=status, headers=headers)
