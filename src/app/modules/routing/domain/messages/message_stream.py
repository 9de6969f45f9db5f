"""Chunks of a chat completion, as a stream of the Messages API."""

from typing import Final

import msgspec

from app.modules.routing.domain.events import Event, EventReader, event
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.messages.chat import (
    CallPiece,
    ChatError,
    ChatUsage,
    Chunk,
    ChunkChoice,
    Piece,
)
from app.modules.routing.domain.messages.from_chat import error_of, stop_reason
from app.modules.routing.domain.messages.reading import understood
from app.modules.routing.domain.messages.usage import MessageUsage
from app.modules.routing.domain.messages.wire import ErrorAnswer

TEXT: Final = "text"
THINKING: Final = "thinking"
NOTHING_COUNTED: Final = MessageUsage(0, 0)

_chunk = msgspec.json.Decoder(Chunk)


class MessagesFromChat:
    """Translates one stream.

    The usage comes after the reason to stop, so the end of the message waits for ``[DONE]``. Only
    the first choice is told. A block ends where another begins: what a server adds to a call after
    that is ``UpstreamNonsense``, because its client may have run the tool already.
    """

    __slots__ = (
        "_block",
        "_blocks",
        "_calls",
        "_events",
        "_finish_reason",
        "_id",
        "_is_begun",
        "_is_over",
        "_model",
        "_stopped_at",
        "_usage",
    )

    def __init__(self, model: str) -> None:
        self._events = EventReader()
        self._model = model
        self._id = ""
        self._is_begun = False
        self._is_over = False
        self._block: str | int = ""
        self._blocks = 0
        self._calls: set[int] = set()
        self._finish_reason: str | None = None
        self._stopped_at: str | int | None = None
        self._usage: ChatUsage | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, wherever they end; return the events that they amount to.

        ``UpstreamNonsense`` where they are no chunks of a chat completion.
        """
        return b"".join(self._translated(found) for found in self._events.feed(chunk))

    def _translated(self, found: Event) -> bytes:
        if self._is_over:
            return b""
        if found.is_done:
            return self._ended()
        chunk = understood(_chunk, found.data)
        if chunk.error is not None:
            return self._failed(chunk.error)
        self._usage = chunk.usage or self._usage
        begun = b"" if self._is_begun else self._begun(chunk.id)
        return begun + (self._said(chunk.choices[0]) if chunk.choices else b"")

    def _begun(self, chunk_id: str) -> bytes:
        self._is_begun, self._id = True, chunk_id
        message: dict[str, object] = {
            "id": chunk_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": NOTHING_COUNTED,
        }
        return _event("message_start", message=message)

    def _said(self, choice: ChunkChoice) -> bytes:
        self._finish_reason = choice.finish_reason or self._finish_reason
        self._stopped_at = choice.stop_reason or self._stopped_at
        piece = choice.delta or Piece()
        thought = piece.reasoning_content or piece.reasoning
        text = (piece.content or "") + (piece.refusal or "")
        events = []
        if thought:
            events.append(self._added(THINKING, {"type": "thinking_delta", "thinking": thought}))
        if text:
            events.append(self._added(TEXT, {"type": "text_delta", "text": text}))
        events += [self._called(call) for call in piece.tool_calls or ()]
        return b"".join(events)

    def _added(self, kind: str, delta: dict[str, str]) -> bytes:
        opened = b""
        if self._block != kind:
            signature = {"signature": ""} if kind == THINKING else {}
            opened = self._opened(kind, {"type": kind, kind: "", **signature})
        return opened + self._delta(delta)

    def _called(self, call: CallPiece) -> bytes:
        """Translate a piece of a call; a server that does not number its calls sends whole ones."""
        number = len(self._calls) if call.index is None else call.index
        if number not in self._calls:
            opened = self._call_opened(number, call)
        elif number == self._block:
            opened = b""
        else:
            raise UpstreamNonsense("The upstream goes on with a call that had ended.")
        arguments = call.function.arguments if call.function else None
        if not arguments:
            return opened
        return opened + self._delta({"type": "input_json_delta", "partial_json": arguments})

    def _call_opened(self, number: int, call: CallPiece) -> bytes:
        if call.function is None or not call.function.name:
            raise UpstreamNonsense("The upstream calls a tool without naming it.")
        self._calls.add(number)
        call_id = call.id or f"call_{self._id}_{number}"
        name = call.function.name
        return self._opened(number, {"type": "tool_use", "id": call_id, "name": name, "input": {}})

    def _opened(self, mark: str | int, block: dict[str, object]) -> bytes:
        """Begin a block, and end the one before it."""
        closed = self._closed()
        self._block, self._blocks = mark, self._blocks + 1
        return closed + _event("content_block_start", index=self._blocks - 1, content_block=block)

    def _closed(self) -> bytes:
        if self._block == "":
            return b""
        self._block = ""
        return _event("content_block_stop", index=self._blocks - 1)

    def _delta(self, delta: dict[str, str]) -> bytes:
        return _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _ended(self) -> bytes:
        self._is_over = True
        begun = b"" if self._is_begun else self._begun("")
        reason, sequence = stop_reason(
            self._finish_reason, self._stopped_at, calls_tools=bool(self._calls)
        )
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = (self._usage or ChatUsage()).as_messages()
        last = _event("message_delta", delta=delta, usage=usage)
        return begun + self._closed() + last + _event("message_stop")

    def _failed(self, error: ChatError | str) -> bytes:
        self._is_over = True
        return event(msgspec.json.encode(ErrorAnswer(error_of(error))), "error")


def _event(kind: str, **members: object) -> bytes:
    return event(msgspec.json.encode({"type": kind, **members}), kind)
