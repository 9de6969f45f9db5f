"""Server-sent events, from bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ai_spine.exceptions import APIError

EVENT_MAX_BYTES = 32 * 1024 * 1024
RETRY_MAX_S = 60.0
_LINE_END = re.compile(rb"\r\n|\r|\n")
# What a header can carry.
_ID = re.compile(r"[!-~]{0,255}")


@dataclass(frozen=True)
class Message:
    """One event as it was sent. ``event_id`` is the last id that the stream named."""

    event: str
    data: str
    event_id: str


class Parser:
    """Takes bytes in pieces of any size; keeps no more than one event."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._line: list[bytes] = []
        self._data: list[str] = []
        self._event = ""
        self._id = last_id
        self._size = 0
        self._is_after_cr = False
        self._is_first = True

    def feed(self, piece: bytes) -> list[Message]:
        """The events that end in ``piece``."""
        if self._is_after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
            self._is_after_cr = False
        if not piece:
            return []
        self._is_after_cr = piece.endswith(b"\r")
        self._size += len(piece)
        first, *rest = _LINE_END.split(piece)
        self._line.append(first)
        messages = []
        for following in rest:
            message = self._read(b"".join(self._line))
            self._line = [following]
            if message is not None:
                messages.append(message)
        if self._size > EVENT_MAX_BYTES:
            raise APIError(f"An event is larger than {EVENT_MAX_BYTES} bytes.")
        return messages

    def _read(self, line: bytes) -> Message | None:
        if self._is_first:
            self._is_first = False
            line = line[3:] if line.startswith(b"\xef\xbb\xbf") else line
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        self._take(name, value[1:] if value.startswith(" ") else value)
        return None

    def _take(self, name: str, value: str) -> None:
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and _ID.fullmatch(value):
            self._id = value
        elif name == "retry" and value.isdigit() and value.isascii():
            self.retry_s = min(RETRY_MAX_S, int(value[:9]) / 1000)

    def _dispatch(self) -> Message | None:
        """An empty line ends an event; without data it is none."""
        data, event = self._data, self._event or "message"
        self._data, self._event, self._size = [], "", 0
        # Only now: what broke off before its end is asked for again.
        self.last_id = self._id
        return Message(event, "\n".join(data), self.last_id) if data else None
