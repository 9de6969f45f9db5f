"""The events of a response that is still being written, each without its number."""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from app.modules.routing.domain.events import event
from app.modules.routing.domain.responses.chat import Logprob
from app.modules.routing.domain.responses.items import Item, OutputText, ReasoningText, Refusal
from app.modules.routing.domain.responses.response import Response

OutputPart: TypeAlias = OutputText | Refusal | ReasoningText


class Created(msgspec.Struct, frozen=True, tag_field="type", tag="response.created"):
    response: Response


class InProgress(msgspec.Struct, frozen=True, tag_field="type", tag="response.in_progress"):
    response: Response


class Completed(msgspec.Struct, frozen=True, tag_field="type", tag="response.completed"):
    response: Response


class Incomplete(msgspec.Struct, frozen=True, tag_field="type", tag="response.incomplete"):
    response: Response


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="response.failed"):
    response: Response


class ErrorEvent(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    code: str | None
    message: str
    param: str | None


class ItemAdded(msgspec.Struct, frozen=True, tag_field="type", tag="response.output_item.added"):
    output_index: int
    item: Item


class ItemDone(msgspec.Struct, frozen=True, tag_field="type", tag="response.output_item.done"):
    output_index: int
    item: Item


class Place(msgspec.Struct, frozen=True):
    """Where in the output something happens: in which part of which item."""

    item_id: str
    output_index: int
    content_index: int


class PartAdded(Place, frozen=True, tag_field="type", tag="response.content_part.added"):
    part: OutputPart


class PartDone(Place, frozen=True, tag_field="type", tag="response.content_part.done"):
    part: OutputPart


class TextDelta(Place, frozen=True, tag_field="type", tag="response.output_text.delta"):
    delta: str
    logprobs: Sequence[Logprob]


class TextDone(Place, frozen=True, tag_field="type", tag="response.output_text.done"):
    text: str
    logprobs: Sequence[Logprob]


class RefusalDelta(Place, frozen=True, tag_field="type", tag="response.refusal.delta"):
    delta: str


class RefusalDone(Place, frozen=True, tag_field="type", tag="response.refusal.done"):
    refusal: str


class ReasoningDelta(Place, frozen=True, tag_field="type", tag="response.reasoning_text.delta"):
    delta: str


class ReasoningDone(Place, frozen=True, tag_field="type", tag="response.reasoning_text.done"):
    text: str


class ArgumentsDelta(
    msgspec.Struct,
    frozen=True,
    tag_field="type",
    tag="response.function_call_arguments.delta",
):
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(
    msgspec.Struct,
    frozen=True,
    tag_field="type",
    tag="response.function_call_arguments.done",
):
    item_id: str
    output_index: int
    name: str
    arguments: str


Ending: TypeAlias = Completed | Incomplete | Failed
OutputEvent: TypeAlias = (
    ItemAdded
    | ItemDone
    | PartAdded
    | PartDone
    | TextDelta
    | TextDone
    | RefusalDelta
    | RefusalDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
)
ResponsesEvent: TypeAlias = Created | InProgress | Ending | ErrorEvent | OutputEvent

_encode = msgspec.json.Encoder().encode


def written(said: ResponsesEvent, number: int) -> bytes:
    """Write an event with its number, the last member of each."""
    body = _encode(said)[:-1] + b',"sequence_number":%d}' % number
    return event(body, str(said.__struct_config__.tag))
