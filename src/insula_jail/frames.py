"""The wire between server and worker: four bytes of length, then one JSON object with its ``t``."""

from __future__ import annotations

import builtins
import json.decoder
import json.encoder
import re
import struct
from collections import deque
from os import read as _read
from os import write as _write
from typing import Any

# A script shares its interpreter with this file and may replace what it finds in ``builtins``,
# ``os`` and ``json``: everything needed is taken hold of here, before any script is there.
globals()["__builtins__"] = dict(vars(builtins))

MAX_IN = 8 * 1024 * 1024
MAX_OUT = 4 * 1024 * 1024
# What one frame carries of a file, before base64.
CHUNK = 512 * 1024
READ_BYTES = 64 * 1024

HEAD = struct.Struct(">I")
SURROGATE = re.compile("[\ud800-\udfff]")

_make_encoder: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]  # undocumented
_quote: Any = json.encoder.encode_basestring
_scan: Any = json.decoder.JSONDecoder().scan_once  # type: ignore[attr-defined]  # undocumented


class BadFrame(ValueError):
    """What came is no frame: too large, no JSON, or no object with a ``t``."""


def dumps(value: Any) -> str:
    """JSON in its shortest form, never NaN, with U+FFFD for halves of surrogate pairs.

    Raises TypeError, ValueError or RecursionError for what JSON cannot say.
    """
    encoder = _make_encoder(
        {}, _refuse, _quote, None, ":", ",", sort_keys=False, skipkeys=False, allow_nan=False
    )
    text = "".join(encoder(value, 0))
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def loads(text: str) -> Any:
    """Read JSON without white space around it; ValueError if it is none."""
    try:
        value, end = _scan(text, 0)
    except (StopIteration, RecursionError):
        raise ValueError("This is no JSON.") from None
    if end != len(text):
        raise ValueError("Something follows the JSON.")
    return value


def pack(payload: bytes, limit_bytes: int = MAX_OUT) -> bytes:
    """Put the length before a payload that is JSON already."""
    if len(payload) > limit_bytes:
        raise BadFrame(f"A frame of {len(payload)} bytes is larger than {limit_bytes}.")
    return HEAD.pack(len(payload)) + payload


def encode(frame: dict[str, Any], limit_bytes: int = MAX_OUT) -> bytes:
    """A frame as it goes over the wire, with its length."""
    return pack(dumps(frame).encode(), limit_bytes)


def decode(payload: bytes) -> dict[str, Any]:
    """Read a payload, which has no length before it."""
    try:
        frame = loads(payload.decode())
    except ValueError:
        raise BadFrame("A frame is no JSON.") from None
    if type(frame) is not dict or type(frame.get("t")) is not str:
        raise BadFrame("A frame is no object with a type.")
    return frame


class Splitter:
    """Finds frames in a stream of bytes that comes in any pieces."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads that ``data`` completes. BadFrame when one is announced that is too large."""
        self._buffer += data
        found = []
        while len(self._buffer) >= HEAD.size:
            (size,) = HEAD.unpack_from(self._buffer)
            if size > self._limit_bytes:
                raise BadFrame(f"A frame of {size} bytes is larger than {self._limit_bytes}.")
            end = HEAD.size + size
            if len(self._buffer) < end:
                break
            with memoryview(self._buffer) as view:
                found.append(bytes(view[HEAD.size : end]))
            del self._buffer[:end]
        return found


class Reader:
    """Reads frames from a blocking descriptor, one after the other."""

    def __init__(self, fd: int, limit_bytes: int) -> None:
        self._fd = fd
        self._splitter = Splitter(limit_bytes)
        self._found: deque[bytes] = deque()

    def next(self) -> bytes | None:
        """Wait for a payload; ``None`` at the end of the stream.

        A wait that a signal handler breaks off may be begun again.
        """
        while not self._found:
            data = _read(self._fd, READ_BYTES)
            if not data:
                return None
            self._found.extend(self._splitter.feed(data))
        return self._found.popleft()


def write(fd: int, data: bytes) -> None:
    """Write all of it to a blocking descriptor."""
    with memoryview(data) as rest:
        written = 0
        while written < len(rest):
            written += _write(fd, rest[written:])


def _refuse(value: Any) -> Any:
    raise TypeError(f"An object of type {type(value).__name__} has no form in JSON.")
