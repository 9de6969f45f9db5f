"""The output of a response while it is being written: items that open, grow and close."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

from app.modules.routing.domain.faults import AnswerTooLarge
from app.modules.routing.domain.responses.chat import Logprob, SaidCall
from app.modules.routing.domain.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemAdded,
    ItemDone,
    OutputEvent,
    OutputPart,
    PartAdded,
    PartDone,
    ReasoningDelta,
    ReasoningDone,
    RefusalDelta,
    RefusalDone,
    TextDelta,
    TextDone,
)
from app.modules.routing.domain.responses.ids import item_id, made_call_id
from app.modules.routing.domain.responses.items import (
    FunctionCall,
    Item,
    Message,
    OutputText,
    Part,
    Reasoning,
    ReasoningText,
    Refusal,
    Status,
)

OUTPUT_LIMIT_CHARACTERS: Final = 16_777_216

# Item, place of the item, place of the part in it.
At = tuple[str, int, int]
Logprobs = Sequence[Logprob]


class _PartKind(NamedTuple):
    """How a part that grows is shown and told of."""

    part: Callable[[str, Logprobs], OutputPart]
    delta: Callable[[At, str, Logprobs], OutputEvent]
    done: Callable[[At, str, Logprobs], OutputEvent]


TEXT: Final = _PartKind(
    lambda text, logprobs: OutputText(text, logprobs=logprobs),
    lambda at, text, logprobs: TextDelta(*at, text, logprobs),
    lambda at, text, logprobs: TextDone(*at, text, logprobs),
)
REFUSAL: Final = _PartKind(
    lambda text, _: Refusal(text),
    lambda at, text, _: RefusalDelta(*at, text),
    lambda at, text, _: RefusalDone(*at, text),
)
THOUGHT: Final = _PartKind(
    lambda text, _: ReasoningText(text),
    lambda at, text, _: ReasoningDelta(*at, text),
    lambda at, text, _: ReasoningDone(*at, text),
)


class _OpenPart:
    """A part of an item, growing."""

    def __init__(self, kind: _PartKind, at: At) -> None:
        self.kind = kind
        self._at = at
        self._texts: list[str] = []
        self._logprobs: list[Logprob] = []

    @property
    def part(self) -> OutputPart:
        return self.kind.part("".join(self._texts), tuple(self._logprobs))

    def begin(self) -> OutputEvent:
        return PartAdded(*self._at, self.part)

    def add(self, text: str, logprobs: Logprobs) -> OutputEvent:
        self._texts.append(text)
        self._logprobs += logprobs
        return self.kind.delta(self._at, text, logprobs)

    def end(self) -> list[OutputEvent]:
        done = self.kind.done(self._at, "".join(self._texts), tuple(self._logprobs))
        return [done, PartDone(*self._at, self.part)]


class _OpenProse:
    """A message or a train of thought, part after part."""

    def __init__(self, kind: type[Message] | type[Reasoning], response_id: str, place: int) -> None:
        self.kind = kind
        self.place = place
        self.status: Status = "in_progress"
        self._id = item_id(kind, response_id, place)
        self._parts: list[_OpenPart] = []

    @property
    def item(self) -> Item:
        parts = [part.part for part in self._parts]
        if self.kind is Reasoning:
            thoughts = cast("list[ReasoningText]", parts)
            return Reasoning(id=self._id, status=self.status, content=thoughts)
        said = cast("list[Part]", parts)
        return Message(id=self._id, status=self.status, role="assistant", content=said)

    def add(self, kind: _PartKind, text: str, logprobs: Logprobs) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        if not self._parts or self._parts[-1].kind is not kind:
            events += self.end()
            opened = _OpenPart(kind, (self._id, self.place, len(self._parts)))
            events.append(opened.begin())
            self._parts.append(opened)
        events.append(self._parts[-1].add(text, logprobs))
        return events

    def end(self) -> list[OutputEvent]:
        return self._parts[-1].end() if self._parts else []


class _OpenCall:
    """A call of one of the caller's functions, argument after argument."""

    def __init__(self, call_id: str, response_id: str, place: int) -> None:
        self.place = place
        self.status: Status = "in_progress"
        self.call_id = call_id
        self.name = ""
        self._id = item_id(FunctionCall, response_id, place)
        self._arguments: list[str] = []

    @property
    def item(self) -> Item:
        return FunctionCall(
            id=self._id,
            status=self.status,
            call_id=self.call_id,
            name=self.name,
            arguments="".join(self._arguments),
        )

    def add(self, arguments: str) -> list[OutputEvent]:
        self._arguments.append(arguments)
        return [ArgumentsDelta(self._id, self.place, arguments)] if arguments else []

    def end(self) -> list[OutputEvent]:
        arguments = "".join(self._arguments)
        return [ArgumentsDone(self._id, self.place, self.name, arguments)]


class Output:
    """All items of one response, in the order in which they began.

    What the model says and thinks comes one after the other. Its calls stay open until the end,
    since pieces of several may come mixed.
    """

    def __init__(self, response_id: str) -> None:
        self._response_id = response_id
        self._items: list[_OpenProse | _OpenCall] = []
        self._prose: _OpenProse | None = None
        self._calls: dict[int, _OpenCall] = {}
        self._call: _OpenCall | None = None
        self._size = 0

    @property
    def items(self) -> list[Item]:
        return [opened.item for opened in self._items]

    def say(self, text: str, logprobs: Logprobs) -> list[OutputEvent]:
        return self._add(Message, TEXT, text, logprobs)

    def refuse(self, text: str) -> list[OutputEvent]:
        return self._add(Message, REFUSAL, text, ())

    def think(self, text: str) -> list[OutputEvent]:
        return self._add(Reasoning, THOUGHT, text, ())

    def call(self, piece: SaidCall) -> list[OutputEvent]:
        """Begin a call, or go on with one. Some servers number every call 0: the id decides."""
        found = self._call if piece.index is None else self._calls.get(piece.index)
        events: list[OutputEvent] = []
        if found is None or (piece.id and piece.id != found.call_id):
            events += self._end_prose()
            place = len(self._items)
            call_id = piece.id or made_call_id(self._response_id, place)
            found = _OpenCall(call_id, self._response_id, place)
            found.name = piece.name
            self._items.append(found)
            self._call = found
            if piece.index is not None:
                self._calls[piece.index] = found
            events.append(ItemAdded(place, found.item))
        self._grow(piece.arguments)
        found.name = found.name or piece.name
        return events + found.add(piece.arguments)

    def end(self, status: Status) -> list[OutputEvent]:
        """Close every item; ``status`` is that of the last one, at which the model stopped."""
        opened = [item for item in self._items if item.status == "in_progress"]
        self.stop(status)
        return [
            event for item in opened for event in (*item.end(), ItemDone(item.place, item.item))
        ]

    def stop(self, status: Status) -> None:
        """Close every item without a word: nobody must take what is cut for a whole."""
        for item in self._items:
            if item.status == "in_progress":
                item.status = status if item is self._items[-1] else "completed"

    def _add(
        self,
        item_kind: type[Message] | type[Reasoning],
        kind: _PartKind,
        text: str,
        logprobs: Logprobs,
    ) -> list[OutputEvent]:
        self._grow(text)
        events: list[OutputEvent] = []
        prose = self._prose
        if prose is None or prose.kind is not item_kind:
            events += self._end_prose()
            prose = _OpenProse(item_kind, self._response_id, len(self._items))
            events.append(ItemAdded(prose.place, prose.item))
            self._items.append(prose)
            self._prose = prose
        return events + prose.add(kind, text, logprobs)

    def _end_prose(self) -> list[OutputEvent]:
        prose, self._prose = self._prose, None
        if prose is None:
            return []
        prose.status = "completed"
        return [*prose.end(), ItemDone(prose.place, prose.item)]

    def _grow(self, text: str) -> None:
        self._size += len(text)
        if self._size > OUTPUT_LIMIT_CHARACTERS:
            raise AnswerTooLarge(f"The answer has over {OUTPUT_LIMIT_CHARACTERS} characters.")
