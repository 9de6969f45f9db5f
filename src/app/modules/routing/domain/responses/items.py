"""Items: what a conversation is made of, in a request as in a response.

After the public API reference of OpenAI's Responses API; this is the full form, in which items are
kept and shown. What callers may leave out is in ``reading.py``.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

Status = Literal["in_progress", "completed", "incomplete"]
Role = Literal["user", "system", "developer", "assistant"]


class InputText(msgspec.Struct, frozen=True, tag_field="type", tag="input_text"):
    """Text for the model."""

    text: str


class InputImage(msgspec.Struct, frozen=True, tag_field="type", tag="input_image"):
    """A picture, as a URL or a data URL."""

    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = "auto"


class InputFile(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="input_file"
):
    """A document; ``file_data`` is a data URL."""

    filename: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text of the model. Clients send it back with ``null`` in the place of what was empty."""

    text: str
    annotations: Sequence[Any] | None = ()
    logprobs: Sequence[Any] | None = ()


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """What the model says in place of an answer that it will not give."""

    refusal: str


class SummaryText(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    """What the model says that it thought."""

    text: str


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """Thoughts of the model, as it wrote them."""

    text: str


Part: TypeAlias = InputText | InputImage | InputFile | OutputText | Refusal


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """What somebody said."""

    id: str | None = None
    status: Status = "completed"
    role: Role
    content: Sequence[Part]


class FunctionCall(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"
):
    """The model wants a function of the caller's run.

    ``arguments`` is what the model wrote, which should be JSON.
    """

    id: str | None = None
    status: Status = "completed"
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"
):
    """What a function of the caller's returned."""

    id: str | None = None
    status: Status = "completed"
    call_id: str
    output: str | Sequence[Part]


class Reasoning(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model thought before it spoke."""

    id: str | None = None
    status: Status = "completed"
    summary: Sequence[SummaryText] = ()
    content: Sequence[ReasoningText] = ()
    encrypted_content: str | None = None


class ItemReference(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="item_reference"
):
    """An item of a stored response, by its id."""

    id: str


Item: TypeAlias = Message | FunctionCall | FunctionCallOutput | Reasoning | ItemReference
