"""What a caller of the Responses API asks for."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from app.modules.routing.domain.envelope import ROUTING_MEMBERS, BadEnvelope
from app.modules.routing.domain.responses.items import Item, ItemReference
from app.modules.routing.domain.responses.reading import (
    TOLD_CHARACTERS,
    decoded,
    read_items,
    said_by_user,
)
from app.modules.routing.domain.unmappable import Unmappable

Count = Annotated[int, Meta(ge=0, le=2**53)]

# What ``include`` may name: log probabilities, which chat has; what an item of ours always shows;
# and reasoning to be sent back, which is in the item in the clear.
INCLUDED: Final = frozenset(
    {
        "message.output_text.logprobs",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
    }
)
# Members of chat completions that have another name here: taken over as they are, they would
# quietly overrule what the caller says in the Responses API's own words.
CHAT_MEMBERS: Final = frozenset(
    {
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "response_format",
        "reasoning_effort",
        "logprobs",
        "functions",
        "function_call",
        "modalities",
        "audio",
    }
)


class FunctionTool(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A function of the caller's. ``parameters`` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, msgspec.Raw] | None = None
    strict: bool | None = None


class PlainText(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Any text will do."""


class JsonObject(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """Some JSON object."""


class JsonSchema(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="json_schema"
):
    """JSON that fits ``schema``."""

    name: str
    schema: dict[str, msgspec.Raw]
    description: str | None = None
    strict: bool | None = None


class TextTerms(msgspec.Struct, frozen=True):
    """How the answer's text is to be."""

    format: PlainText | JsonObject | JsonSchema = PlainText()
    verbosity: str | None = None


class ReasoningTerms(msgspec.Struct, frozen=True):
    """How hard the model is to think."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class _ReasoningAsked(ReasoningTerms, frozen=True):
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ToolName(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool, as a choice names it."""

    type: str = ""
    name: str = ""


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which tools the model may or must use."""

    type: str = ""
    name: str = ""
    mode: Literal["auto", "required"] | None = None
    tools: Sequence[ToolName] = ()


class _ToolTraits(msgspec.Struct, frozen=True):
    type: str = ""
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None


class _StreamTerms(msgspec.Struct, frozen=True):
    include_obfuscation: bool | None = None


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a request that we know, as they were sent."""

    model: str = ""
    input: msgspec.Raw = msgspec.Raw()
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: _StreamTerms | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Count | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Count | None = None
    text: TextTerms | None = None
    reasoning: _ReasoningAsked | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: msgspec.Raw = msgspec.Raw()
    prompt_cache_options: msgspec.Raw = msgspec.Raw()
    service_tier: str | None = None
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    conversation: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    moderation: msgspec.Raw = msgspec.Raw()
    context_management: msgspec.Raw = msgspec.Raw()


class ResponsesRequest(msgspec.Struct, frozen=True):
    """A request, read. ``further`` are the members that nobody here knows: the model's own."""

    members: Members
    items: tuple[Item, ...]
    tools: tuple[FunctionTool, ...]
    further: Mapping[str, msgspec.Raw]

    @property
    def is_kept(self) -> bool:
        """Whether the caller may come back to the response later."""
        return self.members.store is not False

    @property
    def references(self) -> tuple[str, ...]:
        """Ids of the items that are not in the request itself."""
        return tuple(item.id for item in self.items if isinstance(item, ItemReference))


_members = msgspec.json.Decoder(Members)
_all = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_traits = msgspec.json.Decoder(_ToolTraits)
_tool = msgspec.json.Decoder(FunctionTool)
KNOWN: Final = frozenset(Members.__struct_fields__)
ABSENT: Final = frozenset({b"", b"null"})


def read_responses(body: bytes) -> ResponsesRequest:
    """Read a request.

    ``BadEnvelope`` for what is not of the API, ``Unmappable`` for what chat completions cannot.
    """
    members = decoded(_members, body, "")
    everything = decoded(_all, body, "")
    try:
        # What passes through unread would make the whole unreadable.
        body.decode()
    except UnicodeDecodeError as error:
        raise BadEnvelope(f"The body is not valid JSON: {error}.") from None
    for name in sorted(CHAT_MEMBERS & everything.keys()):
        text = f"`{name}` belongs to chat/completions; see `input`, `text` and `reasoning` here."
        raise BadEnvelope(text, param=name)
    _refuse(members)
    passed = everything.keys() - KNOWN - ROUTING_MEMBERS
    return ResponsesRequest(
        members,
        _input(members.input),
        tuple(_function(raw, index) for index, raw in enumerate(members.tools or ())),
        {name: everything[name] for name in everything if name in passed},
    )


def with_items(request: ResponsesRequest, found: Mapping[str, Item]) -> ResponsesRequest:
    """Put the items themselves in the place of references to them, as far as they are found."""
    items = tuple(
        found.get(item.id, item) if isinstance(item, ItemReference) else item
        for item in request.items
    )
    return msgspec.structs.replace(request, items=items)


def _input(raw: msgspec.Raw) -> tuple[Item, ...]:
    text = bytes(raw)
    if text in ABSENT:
        return ()
    if text.startswith(b'"'):
        return (said_by_user(decoded(_text, text, "input")),)
    return read_items(text)


def _function(raw: msgspec.Raw, index: int) -> FunctionTool:
    param = f"tools[{index}]"
    traits = decoded(_traits, raw, param)
    if traits.type != "function":
        told = traits.type[:TOLD_CHARACTERS]
        text = f"Tools of type {told!r} do not exist for this model: only functions do."
        raise Unmappable(text, param=f"{param}.type")
    if traits.defer_loading:
        raise Unmappable("Tools cannot be loaded later.", param=f"{param}.defer_loading")
    if traits.allowed_callers not in (None, ["direct"]):
        text = "Only the model itself calls tools here."
        raise Unmappable(text, param=f"{param}.allowed_callers")
    return decoded(_tool, raw, param)


def _refuse(asked: Members) -> None:
    """Refuse what would be lost without a word, had it been dropped."""
    reasoning = asked.reasoning or _ReasoningAsked()
    summary = reasoning.summary or reasoning.generate_summary
    stream = asked.stream_options or _StreamTerms()
    refused: Mapping[str, Any] = {
        "background": asked.background,
        "conversation": bytes(asked.conversation) not in ABSENT,
        "prompt": bytes(asked.prompt) not in ABSENT,
        "moderation": bytes(asked.moderation) not in ABSENT,
        "context_management": bytes(asked.context_management) not in ABSENT,
        "truncation": asked.truncation == "auto",
        "stream_options.include_obfuscation": stream.include_obfuscation,
        # "auto" is content with what there is, which may be nothing.
        "reasoning.summary": summary not in {None, "auto"},
        "reasoning.context": reasoning.context not in {None, "auto"},
        "reasoning.mode": reasoning.mode not in {None, "standard"},
    }
    for param, is_asked in refused.items():
        if is_asked:
            text = f"`{param}` is not supported for this model as it was asked for."
            raise Unmappable(text, param=param)
    for index, name in enumerate(asked.include or ()):
        if name not in INCLUDED:
            told = name[:TOLD_CHARACTERS]
            text = f"{told!r} cannot be included: this model has nothing of the kind."
            raise Unmappable(text, param=f"include[{index}]")
