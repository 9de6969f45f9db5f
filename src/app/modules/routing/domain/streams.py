"""A model's event stream on its way through: what it says is read, what it is stays untouched.

Only whole events are handed on, so that between any two pieces something of ours may be said.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from app.modules.routing.domain.answers import (
    USAGE,
    ChatWire,
    MessagesWire,
    Part,
    ResponsesWire,
    Tokens,
    Wire,
)
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.events import EVENT_LIMIT_BYTES, event
from app.modules.routing.domain.faults import AnswerTooLarge

EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
DATA_LINE = re.compile(rb"^data: ?([^\r\n]*)", re.M)
BYTES_A_TOKEN: Final = 4
OUTPUT_MEMBERS: Final = frozenset({"content", "text", "delta", "arguments", "reasoning_content"})
KEEP_ALIVE: Final = b": keep-alive\n\n"


def _says_null_alone(events: bytes) -> bool:
    """Whether the events tell no usage, as OpenAI's do with a null in each but the last."""
    return events.count(USAGE) == events.count(b'"usage":null') + events.count(b'"usage": null')


def wire_of(surface: Surface) -> Wire:
    if surface == "responses":
        return ResponsesWire()
    if surface == "messages":
        return MessagesWire()
    return ChatWire()


class StreamReader:
    """Reads a stream as it passes.

    ``strips_usage``: the event that has nothing but the usage was asked for by us, not by the
    caller, and is kept from them.
    """

    __slots__ = (
        "_bytes",
        "_events",
        "_is_opening",
        "_rest",
        "_skeleton_bytes",
        "_strips_usage",
        "_wire",
        "error",
        "has_content",
        "is_done",
        "tokens",
    )

    def __init__(self, surface: Surface, *, strips_usage: bool = False) -> None:
        self._wire = wire_of(surface)
        self._strips_usage = strips_usage
        self._rest = b""
        self._events = 0
        self._bytes = 0
        self._skeleton_bytes = 0
        self._is_opening = True
        self.tokens: Tokens | None = None
        self.error = b""
        self.has_content = False
        self.is_done = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return the whole events that may be handed on."""
        whole = self._whole(chunk)
        self._is_opening = not self.has_content
        if self._is_opening:
            return self._examined(whole)
        self._events += whole.count(b"data:")
        self._bytes += len(whole)
        for mark in self._wire.marks:
            if mark in whole and not (mark is USAGE and _says_null_alone(whole)):
                return self._examined(whole)
        return whole

    def finish(self) -> bytes:
        """Return what is left when the stream has ended: an event without its empty line."""
        rest, self._rest = self._rest, b""
        return self._examined(rest + b"\n\n") if rest.strip() else b""

    @property
    def counts_once(self) -> bool:
        """Whether a usage that was told is the whole one. Messages count as they go."""
        return not isinstance(self._wire, MessagesWire)

    @property
    def output_estimate(self) -> int:
        """Tokens that have passed, where the stream does not tell.

        An event carries a token at the least; text beyond the bare form of an event counts at
        four bytes a token.
        """
        text_bytes = self._bytes - self._events * self._skeleton_bytes
        return max(self._events, text_bytes // BYTES_A_TOKEN)

    def _whole(self, chunk: bytes) -> bytes:
        if self._rest:
            chunk, self._rest = self._rest + chunk, b""
        if chunk.endswith((b"\n\n", b"\r\n\r\n")):
            return chunk
        cut = 0
        for found in EVENT_END.finditer(chunk):
            cut = found.end()
        self._rest = chunk[cut:]
        if len(self._rest) > EVENT_LIMIT_BYTES:
            raise AnswerTooLarge(f"One event is larger than {EVENT_LIMIT_BYTES} bytes.")
        return chunk[:cut]

    def _examined(self, whole: bytes) -> bytes:
        kept = []
        start = 0
        for found in EVENT_END.finditer(whole):
            piece = whole[start : found.end()]
            start = found.end()
            if self._note(piece):
                kept.append(piece)
        return b"".join(kept)

    def _note(self, piece: bytes) -> bool:
        """Learn what an event says; answer whether the caller is to have it."""
        lines = DATA_LINE.findall(piece)
        if not lines:
            return True
        data: bytes = lines[0] if len(lines) == 1 else b"\n".join(lines)
        part = self._wire.read(data)
        self._learn(part, piece, data)
        is_only_usage = part.tokens is not None and not part.has_content and not part.is_last
        return not (self._strips_usage and is_only_usage)

    def _learn(self, part: Part, piece: bytes, data: bytes) -> None:
        if part.tokens is not None:
            self.tokens = part.tokens
        if part.error:
            self.error = part.error
        if part.is_last:
            self.is_done = True
        if part.has_content and not self.has_content:
            self.has_content = True
            self._skeleton_bytes = len(piece) - _text_bytes(data)
            self._events, self._bytes = 1, len(piece)
        elif self._is_opening:
            self._events += part.has_content
            self._bytes += len(piece) * part.has_content


def output_estimate(body: bytes) -> int:
    """Tokens of a whole answer that does not tell, at four bytes of its text a token."""
    return _text_bytes(body) // BYTES_A_TOKEN


def error_event(surface: Surface, message: str, code: str, request_id: str) -> bytes:
    """The event by which a stream says that it ends here, in the form of its surface."""
    code = code.replace("-", "_")
    if surface == "messages":
        told = {"type": "error", "error": {"type": "api_error", "message": message}}
        return event(msgspec.json.encode(told), "error")
    if surface == "responses":
        found = {"type": "error", "code": code, "message": message, "param": None}
        return event(msgspec.json.encode(found), "error")
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return event(msgspec.json.encode({"error": error | {"request_id": request_id}}))


def _text_bytes(data: bytes) -> int:
    """How much of an answer is the model's own text."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return sum(_texts(found))


def _texts(value: object) -> Iterator[int]:
    """The lengths of the texts under the members that carry a model's output."""
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, member in value.items():
            if not isinstance(member, str):
                yield from _texts(member)
            elif name in OUTPUT_MEMBERS:
                yield len(member.encode())
