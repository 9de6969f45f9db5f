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

EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
# OpenAI's events all have the member, with nothing in it but in the last.
IS_NULL = re.compile(rb"\s*:\s*null")
DATA_LINE = re.compile(rb"^data: ?([^\r\n]*)", re.M)
BYTES_A_TOKEN: Final = 4
OUTPUT_MEMBERS: Final = frozenset({"content", "text", "delta", "arguments", "reasoning_content"})
KEEP_ALIVE: Final = b": keep-alive\n\n"


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
        self.tokens: Tokens | None = None
        self.error = b""
        self.has_content = False
        self.is_done = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes; return the whole events that may be handed on."""
        return self._examined(self._whole(chunk))

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
        """Read the first events up to one with content, and then those that say something."""
        kept: list[bytes] = []
        at = 0
        while not self.has_content and at < len(whole):
            at = self._read(whole, at, kept)
        for said in self._said(whole, at):
            if said >= at:
                start = _event_start(whole, at, said)
                self._pass(whole[at:start], kept)
                at = self._read(whole, start, kept)
        self._pass(whole[at:], kept)
        return kept[0] if len(kept) == 1 else b"".join(kept)

    def _said(self, whole: bytes, start: int) -> list[int]:
        """Where, from ``start`` on, something is said of usage, of an error or of the end."""
        found = []
        for mark in self._wire.marks:
            at = whole.find(mark, start)
            while at >= 0:
                end = at + len(mark)
                if mark is not USAGE or IS_NULL.match(whole, end) is None:
                    found.append(at)
                at = whole.find(mark, end)
        return sorted(found)

    def _pass(self, events: bytes, kept: list[bytes]) -> None:
        """Hand events on unread."""
        if events:
            self._events += events.count(b"data:")
            self._bytes += len(events)
            kept.append(events)

    def _read(self, whole: bytes, at: int, kept: list[bytes]) -> int:
        """Read one event, hand it on unless it is ours alone, and return where the next begins."""
        found = EVENT_END.search(whole, at)
        end = found.end() if found else len(whole)
        piece = whole[at:end]
        if self._note(piece):
            kept.append(piece)
        return end

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
        if self.has_content:
            self._events += 1
            self._bytes += len(piece)
        elif part.has_content:
            self.has_content = True
            self._skeleton_bytes = len(piece) - _text_bytes(data)
            self._events, self._bytes = 1, len(piece)


def _event_start(whole: bytes, at: int, within: int) -> int:
    """Where the event begins that ``within`` is in, not before ``at``."""
    ends = ((whole.rfind(end, at, within), len(end)) for end in EVENT_ENDS)
    return max([at, *(found + length for found, length in ends if found >= 0)])


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
