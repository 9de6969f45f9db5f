"""What an agent answers in the form: the text of a chat completion.

A whole answer is ``{text, finish_reason, model, usage}``. A stream is events of ``{text}``, at its
end one with the other members, and ``[DONE]``.
"""

from typing import Any

import msgspec

from app.modules.routing.domain.events import DONE, EventReader, event
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.infer.reply import UNREADABLE, Piece, piece_of


class InferRead(msgspec.Struct, frozen=True):
    """A whole answer. ``usage`` is OpenAI's, ``null`` where the model does not tell."""

    text: str
    finish_reason: str
    model: str
    usage: dict[str, Any] | None


def text_answer(chat_answer: bytes) -> bytes:
    """Write the answer of a chat completion in the form."""
    found = _object(chat_answer)
    piece = piece_of(found) if found else None
    if found is None or piece is None or piece.error is not None:
        raise UpstreamNonsense("The model answered with no chat completion.")
    return msgspec.json.encode(_read(piece, str(found.get("model", ""))))


class TextFromChat:
    """Turns chat events into events of the form. An error event goes through and is the last one;
    a stream that breaks off has no ``[DONE]``.
    """

    def __init__(self) -> None:
        self._reader = EventReader()
        self._end = Piece()
        self._model = ""
        self._is_over = False

    def feed(self, chunk: bytes) -> bytes:
        return b"".join(self._take(found.data) for found in self._reader.feed(chunk))

    def _take(self, data: bytes) -> bytes:
        if self._is_over:
            return b""
        if data == b"[DONE]":
            self._is_over = True
            return event(msgspec.json.encode(_read(self._end, self._model))) + DONE
        found = _object(data)
        piece = piece_of(found) if found else None
        if found is None or piece is None:
            return b""
        if piece.error is not None:
            self._is_over = True
            return event(data)
        self._model = str(found.get("model") or self._model)
        end = self._end
        self._end = Piece("", piece.reason or end.reason, piece.usage or end.usage)
        return event(msgspec.json.encode({"text": piece.text})) if piece.text else b""


def _read(piece: Piece, model: str) -> InferRead:
    return InferRead(piece.text, piece.reason or "stop", model, piece.usage)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(data)
    except UNREADABLE:
        return None
    return found if isinstance(found, dict) else None
