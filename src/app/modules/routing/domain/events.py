"""Server-sent events, as bytes: cutting a stream into events and writing them.

After the HTML standard, section 9.2.6: lines end with CR LF, LF or CR, a line that begins with a
colon is a comment, the lines of one ``data`` are joined by LF, an empty line ends the event. Bytes
are never decoded, so that a character split over two chunks stays whole.
"""

import re

import msgspec

from app.modules.routing.domain.faults import AnswerTooLarge

EVENT_LIMIT_BYTES = 16_777_216
LINE_END = re.compile(rb"\r\n|\n|\r")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DONE = b"data: [DONE]\n\n"


class Event(msgspec.Struct, frozen=True):
    """One event. ``name`` is ``b""`` where the stream names none."""

    data: bytes
    name: bytes = b""

    @property
    def is_done(self) -> bool:
        """Whether this is OpenAI's closing mark."""
        return self.data == b"[DONE]"


class EventReader:
    """Cuts a stream into events, wherever its chunks end."""

    __slots__ = ("_data", "_is_first", "_name", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._is_first = True

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; answer the events that they complete.

        ``AnswerTooLarge`` when one event grows over ``EVENT_LIMIT_BYTES``.
        """
        text = self._rest + chunk
        if self._is_first and len(text) >= len(BYTE_ORDER_MARK):
            text, self._is_first = text.removeprefix(BYTE_ORDER_MARK), False
        lines = LINE_END.split(text)
        self._rest = lines.pop()
        if text.endswith(b"\r"):
            # Half of a CR LF, perhaps: the line ends when the next byte is known.
            self._rest = lines.pop() + b"\r"
        events = [event for line in lines if (event := self._line(line)) is not None]
        if self._size + len(self._rest) > EVENT_LIMIT_BYTES:
            raise AnswerTooLarge(f"One event is larger than {EVENT_LIMIT_BYTES} bytes.")
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._end()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
        elif field == b"event":
            self._name = value
        return None

    def _end(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name, self._size = [], b"", 0
        return Event(b"\n".join(data), name) if data else None


def event(data: bytes, name: str = "") -> bytes:
    """Write one event; ``data`` is JSON, which has no line end in it."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + data + b"\n\n"
