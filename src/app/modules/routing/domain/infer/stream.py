"""An agent's stream as OpenAI's events, whichever way the agent streams."""

from typing import Any, Final

import msgspec

from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.events import DONE, EventReader, event
from app.modules.routing.domain.infer.reply import (
    UNREADABLE,
    Piece,
    Stamp,
    datas,
    error_envelope,
    read_piece,
)

OBJECTS: Final = {"completions": "text_completion", "chat/completions": "chat.completion.chunk"}


class _Choice(msgspec.Struct, frozen=True):
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    """An event that is OpenAI's already."""

    id: str
    object: str
    choices: list[_Choice]


_chunk = msgspec.json.Decoder(_Chunk)


class EventsFromInfer:
    """Turns what an agent streams into events of ``surface``, as it comes.

    Events that are OpenAI's go through as they are, and their stream must end as OpenAI's do.
    Any other stream has no end of its own: it is complete when the connection ends in order.
    """

    def __init__(self, surface: Surface, stamp: Stamp, *, wants_usage: bool) -> None:
        self._surface = surface
        self._stamp = stamp
        self._wants_usage = wants_usage
        self._reader = EventReader()
        self._usage: dict[str, Any] | None = None
        self._reason = ""
        self._has_spoken = False
        self._is_native = False
        self._is_over = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of an event stream."""
        return b"".join(self.take(found.data) for found in self._reader.feed(chunk))

    def finish(self) -> bytes:
        """The stream has ended in order: say so, if it may end here."""
        rest = self.feed(b"\n\n")
        is_whole = bool(self._reason) if self._is_native else self._has_spoken
        return rest + self._end() if is_whole else rest

    def whole(self, body: bytes, content_type: str) -> bytes:
        """An answer that came whole although a stream was asked for, as a stream."""
        events = b"".join(self.take(data) for data in datas(body, content_type))
        return events + self.finish()

    def take(self, data: bytes) -> bytes:
        """Take one piece, and return the events that it amounts to."""
        if self._is_over:
            return b""
        if data == b"[DONE]":
            return self._end()
        if (native := self._native(data)) is not None:
            return native
        piece = read_piece(data)
        return b"" if piece is None else self._said(piece)

    def _native(self, data: bytes) -> bytes | None:
        """An event of the right form, as it is; ``None`` for any other."""
        try:
            found = _chunk.decode(data)
        except UNREADABLE:
            return None
        if found.object != OBJECTS[self._surface]:
            return None
        self._is_native = self._has_spoken = True
        for choice in found.choices:
            self._reason = choice.finish_reason or self._reason
        return event(data)

    def _said(self, piece: Piece) -> bytes:
        if piece.error is not None:
            self._is_over = True
            return event(error_envelope(piece.error))
        self._reason = piece.reason or self._reason
        self._usage = piece.usage or self._usage
        is_first, self._has_spoken = not self._has_spoken, True
        return self._event([self._choice(piece.text, is_first=is_first)]) if piece.text else b""

    def _end(self) -> bytes:
        if self._is_over:
            return b""
        self._is_over = True
        if self._is_native:
            return DONE
        last = self._event([self._choice("", reason=self._reason or "stop")])
        if self._wants_usage and self._usage is not None:
            last += self._event([], usage=self._usage)
        return last + DONE

    def _choice(
        self, text: str, *, is_first: bool = False, reason: str | None = None
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self._surface == "completions":
            return choice | {"text": text}
        role = {"role": "assistant"} if is_first else {}
        return choice | {"delta": role | ({"content": text} if text else {})}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        stamp = self._stamp
        chunk = {
            "id": stamp.id,
            "object": OBJECTS[self._surface],
            "created": stamp.created_s,
            "model": stamp.model,
            "choices": choices,
        }
        return event(msgspec.json.encode(chunk | more))
