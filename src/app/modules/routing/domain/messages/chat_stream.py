"""A stream of the Messages API, as chunks of a chat completion."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from app.modules.routing.domain.events import DONE, Event, EventReader, event
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.messages.chat import (
    CallPiece,
    ChatUsage,
    FunctionPiece,
    Piece,
    ReasoningDetail,
)
from app.modules.routing.domain.messages.from_messages import (
    Failure,
    chat_error_of,
    finish_reason,
    signed,
)
from app.modules.routing.domain.messages.reading import is_given, understood
from app.modules.routing.domain.messages.usage import MessageUsage
from app.modules.routing.domain.messages.wire import Answer, AnswerBlock, Delta, Error, StreamEvent

PING: Final = b": ping\n\n"
# Thoughts are kept until the end to be signed there. Those beyond the limit cannot be handed back.
THOUGHTS_LIMIT_CHARS: Final = 1_000_000


class _Thought(msgspec.Struct):
    """A block of thinking that is still coming."""

    text: str = ""
    signature: str = ""
    data: str | None = None


class SignedPiece(Piece, frozen=True, omit_defaults=True):
    reasoning_details: list[ReasoningDetail] | None = None


class SaidChoice(msgspec.Struct, frozen=True):
    delta: Piece
    finish_reason: str | None = None
    index: int = 0


class SaidChunk(msgspec.Struct, frozen=True):
    id: str
    model: str
    created: int
    choices: list[SaidChoice]
    usage: ChatUsage | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"


_event = msgspec.json.Decoder(StreamEvent)


class ChatFromMessages:
    """Translates one stream.

    It ends with the reason, the usage and ``[DONE]`` when its message has ended, and with an error
    when the server tells one; after either, nothing more is said. A stream that is cut has no end.
    """

    __slots__ = (
        "_calls",
        "_created_s",
        "_events",
        "_id",
        "_is_over",
        "_model",
        "_refusal",
        "_stop_reason",
        "_thoughts",
        "_thoughts_chars",
        "_usage",
    )

    def __init__(self, created_s: int = 0) -> None:
        self._events = EventReader()
        self._created_s = created_s
        self._id = ""
        self._model = ""
        self._usage = MessageUsage()
        self._calls: dict[int, int] = {}
        self._thoughts: dict[int, _Thought] = {}
        self._thoughts_chars = 0
        self._stop_reason: str | None = None
        self._refusal: str | None = None
        self._is_over = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes, wherever they end; return the events that they amount to.

        ``UpstreamNonsense`` where they are no events of the Messages API.
        """
        return b"".join(self._translated(found) for found in self._events.feed(chunk))

    def _translated(self, found: Event) -> bytes:
        if self._is_over:
            return b""
        said = understood(_event, found.data)
        if said.type == "content_block_start" and said.content_block is not None:
            return self._opened(said.index, said.content_block)
        if said.type == "content_block_delta" and said.delta is not None:
            return self._added(said.index, said.delta)
        return self._of_message(said)

    def _of_message(self, said: StreamEvent) -> bytes:
        """Translate an event that is not of one block; a type that nobody knows says nothing."""
        match said.type:
            case "message_start" if said.message is not None:
                return self._begun(said.message)
            case "message_delta" if said.delta is not None:
                self._note(said.delta, said.usage)
            case "message_stop":
                return self._ended()
            case "error":
                return self._failed(said.error or Error())
            case "ping":
                return PING
        return b""

    def _begun(self, message: Answer) -> bytes:
        self._id, self._model = message.id, message.model
        self._usage = message.usage or self._usage
        return self._piece(Piece(role="assistant", content=""))

    def _opened(self, index: int, block: AnswerBlock) -> bytes:
        if block.type == "tool_use":
            return self._called(index, block)
        if block.type in {"thinking", "redacted_thinking"}:
            self._thoughts[index] = _Thought(data=block.data)
            return self._thought(index, block.thinking or "")
        return self._text(block.text or "") if block.type == "text" else b""

    def _called(self, index: int, block: AnswerBlock) -> bytes:
        if not block.id or not block.name:
            raise UpstreamNonsense("The upstream calls a tool without naming it.")
        self._calls[index] = len(self._calls)
        # Some servers give the whole input at once; most give "{}" and the pieces later.
        given = bytes(block.input).decode(errors="replace") if is_given(block.input) else ""
        arguments = given if given.strip("{} \t\r\n") else ""
        called = FunctionPiece(block.name, arguments)
        call = CallPiece(self._calls[index], block.id, "function", called)
        return self._piece(Piece(tool_calls=[call]))

    def _added(self, index: int, delta: Delta) -> bytes:
        """Translate a delta; those of citations and of unknown blocks say nothing."""
        match delta.type:
            case "text_delta":
                return self._text(delta.text)
            case "thinking_delta":
                return self._thought(index, delta.thinking)
            case "signature_delta" if index in self._thoughts:
                self._thoughts[index].signature += delta.signature
            case "input_json_delta" if index in self._calls and delta.partial_json:
                piece = FunctionPiece(arguments=delta.partial_json)
                call = CallPiece(self._calls[index], function=piece)
                return self._piece(Piece(tool_calls=[call]))
        return b""

    def _text(self, text: str) -> bytes:
        return self._piece(Piece(content=text)) if text else b""

    def _thought(self, index: int, text: str) -> bytes:
        if not text:
            return b""
        self._thoughts_chars += len(text)
        if index in self._thoughts and self._thoughts_chars <= THOUGHTS_LIMIT_CHARS:
            self._thoughts[index].text += text
        return self._piece(Piece(reasoning_content=text))

    def _note(self, delta: Delta, usage: MessageUsage | None) -> None:
        if usage is not None:
            self._usage = self._usage.merged(usage)
        self._stop_reason = delta.stop_reason or self._stop_reason
        if delta.stop_details is not None:
            self._refusal = delta.stop_details.explanation

    def _ended(self) -> bytes:
        """The last chunk of the message carries its thoughts once more, to be handed back."""
        self._is_over = True
        last = SignedPiece(refusal=self._refusal, reasoning_details=self._details() or None)
        usage = self._chunk([], ChatUsage.of(self._usage))
        return self._piece(last, finish_reason(self._stop_reason)) + usage + DONE

    def _details(self) -> list[ReasoningDetail]:
        if self._thoughts_chars > THOUGHTS_LIMIT_CHARS:
            return []
        details = []
        for index, thought in self._thoughts.items():
            kind = "thinking" if thought.data is None else "redacted_thinking"
            block = AnswerBlock(
                kind, thinking=thought.text, signature=thought.signature, data=thought.data
            )
            detail = signed(block, index)
            if detail is not None:
                details.append(detail)
        return details

    def _failed(self, error: Error) -> bytes:
        self._is_over = True
        return event(msgspec.json.encode(Failure(chat_error_of(error))))

    def _piece(self, piece: Piece, reason: str | None = None) -> bytes:
        return self._chunk([SaidChoice(piece, reason)])

    def _chunk(
        self, choices: list[SaidChoice], usage: ChatUsage | UnsetType | None = UNSET
    ) -> bytes:
        chunk = SaidChunk(self._id, self._model, self._created_s, choices, usage)
        return event(msgspec.json.encode(chunk))
