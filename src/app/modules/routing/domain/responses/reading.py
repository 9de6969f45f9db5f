"""Reading what callers write: items in every form that is allowed, errors by their full path."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from app.modules.routing.domain.envelope import BadEnvelope
from app.modules.routing.domain.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Item,
    ItemReference,
    Message,
    OutputText,
    Part,
    Reasoning,
    ReasoningText,
    Refusal,
    Role,
    Status,
    SummaryText,
)
from app.modules.routing.domain.unmappable import Unmappable

T = TypeVar("T")

# How much of what a caller sent is said back to them.
TOLD_CHARACTERS: Final = 200
PATH: Final = re.compile(r" - at `\$\.?(.*)`$")


class _Message(msgspec.Struct, frozen=True):
    role: Role
    content: str | list[Part]
    id: str | None = None
    status: Status | None = None

    def item(self, param: str) -> Message:
        content = self.content
        if isinstance(content, str):
            content = [InputText(content)]
        parts = [self._part(part, f"{param}.content[{i}]") for i, part in enumerate(content)]
        return Message(id=self.id, status=self.status or "completed", role=self.role, content=parts)

    def _part(self, part: Part, param: str) -> Part:
        """Every role has its own kinds of content; text is understood in either."""
        if self.role != "assistant" and not isinstance(part, OutputText | Refusal):
            return _shown(part)
        if self.role == "assistant" and isinstance(part, InputText | OutputText):
            return OutputText(part.text)
        if self.role == "assistant" and isinstance(part, Refusal):
            return part
        text = f"Messages of the role {self.role!r} have no such content."
        raise BadEnvelope(text, param=f"{param}.type")


class _Call(msgspec.Struct, frozen=True):
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None

    def item(self, _: str) -> FunctionCall:
        return FunctionCall(
            id=self.id,
            status=self.status or "completed",
            call_id=self.call_id,
            name=self.name,
            arguments=self.arguments,
        )


class _Output(msgspec.Struct, frozen=True):
    call_id: str
    output: str | list[Part]
    id: str | None = None
    status: Status | None = None

    def item(self, _: str) -> FunctionCallOutput:
        output = self.output
        return FunctionCallOutput(
            id=self.id,
            status=self.status or "completed",
            call_id=self.call_id,
            output=output if isinstance(output, str) else [_shown(part) for part in output],
        )


class _Reasoning(msgspec.Struct, frozen=True):
    id: str | None = None
    status: Status | None = None
    summary: list[SummaryText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None

    def item(self, _: str) -> Reasoning:
        return Reasoning(
            id=self.id,
            status=self.status or "completed",
            summary=self.summary or (),
            content=self.content or (),
            encrypted_content=self.encrypted_content,
        )


class _Reference(msgspec.Struct, frozen=True):
    id: str

    def item(self, _: str) -> ItemReference:
        return ItemReference(id=self.id)


class _Kind(msgspec.Struct, frozen=True):
    type: str | None = None
    role: msgspec.Raw = msgspec.Raw()


Written: TypeAlias = _Message | _Call | _Output | _Reasoning | _Reference

_kind = msgspec.json.Decoder(_Kind)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_decoders: Final[Mapping[str, "msgspec.json.Decoder[Any]"]] = {
    "message": msgspec.json.Decoder(_Message),
    "function_call": msgspec.json.Decoder(_Call),
    "function_call_output": msgspec.json.Decoder(_Output),
    "reasoning": msgspec.json.Decoder(_Reasoning),
    "item_reference": msgspec.json.Decoder(_Reference),
}


def decoded(decoder: "msgspec.json.Decoder[T]", raw: bytes | msgspec.Raw, param: str) -> T:
    """Decode what stands under ``param``; what does not fit is refused by its full path."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        text = str(error)
        found = PATH.search(text)
        path = f"{param}.{found[1]}".strip(".").replace(".[", "[") if found else param
        where = f"`{path}`" if path else "The body"
        refusal = Unmappable if path.endswith(".type") else BadEnvelope
        told = PATH.sub("", text)[:TOLD_CHARACTERS]
        raise refusal(f"{where}: {told}.", param=path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadEnvelope(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise BadEnvelope("The body is nested too deeply.", param=param or None) from None


def read_items(raw: bytes | msgspec.Raw, param: str = "input") -> tuple[Item, ...]:
    """Read a list of items, each into its full form."""
    raws = decoded(_raws, raw, param)
    return tuple(_item(one, f"{param}[{index}]") for index, one in enumerate(raws))


def said_by_user(text: str) -> Message:
    """The message that a bare string is short for."""
    return Message(role="user", content=[InputText(text)])


def _item(raw: msgspec.Raw, param: str) -> Item:
    kind = decoded(_kind, raw, param)
    # These two may be written without a type.
    short = "message" if bytes(kind.role) else "item_reference"
    decoder = _decoders.get(kind.type or short)
    if decoder is None:
        text = f"Items of type {str(kind.type)[:TOLD_CHARACTERS]!r} do not exist for this model."
        raise Unmappable(text, param=f"{param}.type")
    written: Written = decoded(decoder, raw, param)
    return written.item(param)


def _shown(part: Part) -> Part:
    """Say what a picture's missing detail means."""
    if isinstance(part, InputImage) and part.detail is None:
        return msgspec.structs.replace(part, detail="auto")
    return part
