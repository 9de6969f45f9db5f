"""Which bytes of a body a reader wants, and whether it has them already (RFC 9110)."""

import re
from typing import Final

import msgspec

from app.kernel.errors import RangeUnsatisfiable

# One range of at most 18 digits each: several at once would have to be answered as multipart.
_RANGE: Final = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.ASCII | re.IGNORECASE)
ETAGS_LIMIT: Final = 64


class NoSuchRange(RangeUnsatisfiable):
    """The range begins behind the last byte."""

    title = "Range not satisfiable"


class Span(msgspec.Struct, frozen=True):
    """Bytes ``start`` up to, not including, ``end``."""

    start: int
    end: int

    def content_range(self, size_bytes: int) -> str:
        return f"bytes {self.start}-{self.end - 1}/{size_bytes}"


def span_of(text: str | None, size_bytes: int) -> Span | None:
    """Read ``Range``: ``None`` for the whole, also where it is malformed or has several ranges.

    ``NoSuchRange`` when none of the bytes exist.
    """
    found = _RANGE.fullmatch(text or "")
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        return _suffix(int(found[2]), size_bytes)
    start, last = int(found[1]), int(found[2] or size_bytes)
    if found[2] and last < start:
        return None
    if start >= size_bytes:
        raise _beyond(size_bytes)
    return Span(start, min(last + 1, size_bytes))


def holds(if_range: str | None, etag: str) -> bool:
    """Whether a part may be sent: ``If-Range`` has the quoted ETag, or is not there.

    A date never holds: it is too coarse to tell two revisions apart.
    """
    return if_range is None or if_range.strip() == etag


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether the reader has it already. ETags are compared weakly, as for every GET."""
    if if_none_match is None:
        return False
    known = [one.strip() for one in if_none_match.split(",", ETAGS_LIMIT)[:ETAGS_LIMIT]]
    return "*" in known or etag in {one.removeprefix("W/") for one in known}


def _suffix(length: int, size_bytes: int) -> Span:
    if length == 0 or size_bytes == 0:
        raise _beyond(size_bytes)
    return Span(max(size_bytes - length, 0), size_bytes)


def _beyond(size_bytes: int) -> NoSuchRange:
    return NoSuchRange(f"There are {size_bytes} bytes.", size_bytes=size_bytes)
