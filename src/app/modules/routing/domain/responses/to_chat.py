"""A request of the Responses API, as chat completions.

What becomes of a member: ``instructions`` and developer messages are system messages, since the
role of developer is known to OpenAI's own models only. ``max_output_tokens`` is ``max_tokens``: a
server that has no Responses API is not OpenAI's, and ``max_completion_tokens`` is known there
alone. ``metadata`` and ``store`` are between the caller and us. Reasoning of earlier turns is left
out: chat completions has no place for it, and what is encrypted can be read by its maker only.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from app.modules.routing.domain.envelope import BadEnvelope
from app.modules.routing.domain.responses.chat import (
    CalledFunction,
    ChatMessage,
    ChatPart,
    File,
    FilePart,
    ImagePart,
    ImageUrl,
    TextPart,
    ToolCall,
)
from app.modules.routing.domain.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputFile,
    InputImage,
    InputText,
    Item,
    Message,
    OutputText,
    Part,
    Reasoning,
    Refusal,
)
from app.modules.routing.domain.responses.reading import TOLD_CHARACTERS
from app.modules.routing.domain.responses.request import (
    ABSENT,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Members,
    ResponsesRequest,
    TextTerms,
    ToolChoice,
)
from app.modules.routing.domain.unmappable import Unmappable

# Members that mean in chat completions just what they mean here.
SAME: Final = (
    "temperature",
    "top_p",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
)
DETAILS: Final = frozenset({"auto", "low", "high"})


def chat_request(request: ResponsesRequest, history: Sequence[Item] = ()) -> bytes:
    """Write the request. ``history`` is what was said before it, oldest first.

    ``BadEnvelope`` when there is nothing to answer, ``Unmappable`` for what chat has no place for.
    """
    asked = request.members
    messages = _Transcript(asked.instructions).of(history, request.items)
    if not messages or not (history or request.items):
        raise BadEnvelope("Say something in `input`.", param="input")
    written: dict[str, object] = {"model": asked.model, "messages": messages}
    written |= {name: getattr(asked, name) for name in SAME if _is_given(getattr(asked, name))}
    written |= _text_terms(asked.text or TextTerms())
    written |= _tool_terms(asked, request.tools)
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        written["reasoning_effort"] = asked.reasoning.effort
    if asked.max_output_tokens is not None:
        written["max_tokens"] = asked.max_output_tokens
    if asked.top_logprobs or "message.output_text.logprobs" in (asked.include or ()):
        written |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    if asked.stream:
        written |= {"stream": True, "stream_options": {"include_usage": True}}
    # The model's name stands first: that is where it is looked for when it is replaced.
    return msgspec.json.encode(
        written | {k: v for k, v in request.further.items() if k not in written}
    )


class _Transcript:
    """Items, one after another, as messages. ``param`` is where the item stands in the request."""

    def __init__(self, instructions: str | None) -> None:
        self._messages: list[ChatMessage] = []
        if instructions:
            self._messages.append(ChatMessage("system", instructions))

    def of(self, history: Sequence[Item], items: Sequence[Item]) -> list[ChatMessage]:
        for item in history:
            self._add(item, "previous_response_id")
        for index, item in enumerate(items):
            self._add(item, f"input[{index}]")
        return self._messages

    @property
    def _last(self) -> ChatMessage | None:
        return self._messages[-1] if self._messages else None

    def _add(self, item: Item, param: str) -> None:
        if isinstance(item, Message):
            self._say(item, param)
        elif isinstance(item, FunctionCall):
            self._call(item)
        elif isinstance(item, FunctionCallOutput):
            self._messages.append(_result(item, param))
        elif not isinstance(item, Reasoning):
            told = item.id[:TOLD_CHARACTERS]
            raise Unmappable(f"The item {told!r} is not in any response.", param=param)

    def _say(self, message: Message, param: str) -> None:
        if message.role == "assistant":
            self._answer(message)
        elif message.role == "user":
            self._messages.append(
                ChatMessage("user", _contents(message.content, f"{param}.content"))
            )
        else:
            self._instruct(_only_text(message.content, f"{param}.content"))

    def _instruct(self, text: str) -> None:
        """Say it to the system. One message after another is one: many models take no more."""
        last = self._last
        if last is not None and last.role == "system":
            text = f"{last.content}\n\n{text}"
            self._messages.pop()
        self._messages.append(ChatMessage("system", text))

    def _answer(self, message: Message) -> None:
        """Whatever was said goes beside the calls before it: their results must come next."""
        text = "".join(_spoken(part) for part in message.content)
        last = self._last
        if last is not None and last.tool_calls:
            content = f"{last.content or ''}{text}" or None
            self._messages[-1] = msgspec.structs.replace(last, content=content)
        else:
            self._messages.append(ChatMessage("assistant", text))

    def _call(self, item: FunctionCall) -> None:
        call = ToolCall(id=item.call_id, function=CalledFunction(item.name, item.arguments))
        last = self._last
        if last is not None and last.role == "assistant":
            calls = (*last.tool_calls, call)
            content = last.content or None
            self._messages[-1] = msgspec.structs.replace(last, content=content, tool_calls=calls)
        else:
            self._messages.append(ChatMessage("assistant", None, tool_calls=(call,)))


def _result(item: FunctionCallOutput, param: str) -> ChatMessage:
    output = item.output
    text = output if isinstance(output, str) else _only_text(output, f"{param}.output")
    return ChatMessage("tool", text, tool_call_id=item.call_id)


def _contents(parts: Sequence[Part], param: str) -> str | list[ChatPart]:
    """What a user says; a text alone goes as a string, which every server understands."""
    found = [_part(part, f"{param}[{index}]") for index, part in enumerate(parts)]
    if not found:
        return ""
    only = found[0]
    return only.text if len(found) == 1 and isinstance(only, TextPart) else found


def _part(part: Part, param: str) -> ChatPart:
    if isinstance(part, InputText):
        return TextPart(part.text)
    if isinstance(part, InputImage) and part.image_url:
        return ImagePart(ImageUrl(part.image_url, _detail(part.detail, param)))
    if isinstance(part, InputFile) and part.file_data:
        return FilePart(File(part.file_data, part.filename))
    text = "No files are kept here: send a picture as `image_url`, a document as `file_data`."
    raise Unmappable(text, param=param)


def _detail(detail: str | None, param: str) -> str | None:
    if detail not in DETAILS:
        text = f"Pictures are sent with one of the details {', '.join(sorted(DETAILS))}."
        raise Unmappable(text, param=f"{param}.detail")
    return None if detail == "auto" else detail


def _only_text(parts: Sequence[Part], param: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        if not isinstance(part, InputText | OutputText):
            text = "Only what a user says may have other content than text."
            raise Unmappable(text, param=f"{param}[{index}]")
        texts.append(part.text)
    return "\n".join(texts)


def _spoken(part: Part) -> str:
    """A refusal is what the model said, too; few servers know the member that OpenAI has for it."""
    if isinstance(part, Refusal):
        return part.refusal
    return part.text if isinstance(part, OutputText) else ""


def _text_terms(text: TextTerms) -> dict[str, object]:
    terms: dict[str, object] = {}
    if isinstance(text.format, JsonObject):
        terms["response_format"] = {"type": "json_object"}
    elif isinstance(text.format, JsonSchema):
        schema = msgspec.structs.asdict(text.format)
        given = {name: value for name, value in schema.items() if value is not None}
        terms["response_format"] = {"type": "json_schema", "json_schema": given}
    if text.verbosity is not None:
        terms["verbosity"] = text.verbosity
    return terms


def _tool_terms(asked: Members, tools: Sequence[FunctionTool]) -> dict[str, object]:
    """Tools and how they may be used. Without tools chat completions takes no terms for them."""
    choice = asked.tool_choice
    terms: dict[str, object] = {}
    if isinstance(choice, ToolChoice):
        if choice.type == "allowed_tools":
            allowed = _allowed(choice)
            tools = [tool for tool in tools if tool.name in allowed]
            terms["tool_choice"] = choice.mode or "auto"
        elif choice.type == "function":
            terms["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        else:
            raise _no_such_tool(choice.type, "tool_choice.type")
    elif choice is not None:
        terms["tool_choice"] = choice
    if asked.parallel_tool_calls is not None:
        terms["parallel_tool_calls"] = asked.parallel_tool_calls
    if not tools:
        return {}
    return {"tools": [_tool(tool) for tool in tools]} | terms


def _allowed(choice: ToolChoice) -> set[str]:
    for index, tool in enumerate(choice.tools):
        if tool.type != "function":
            raise _no_such_tool(tool.type, f"tool_choice.tools[{index}].type")
    return {tool.name for tool in choice.tools}


def _no_such_tool(kind: str, param: str) -> Unmappable:
    told = kind[:TOLD_CHARACTERS]
    return Unmappable(f"Tools of type {told!r} do not exist for this model.", param=param)


def _tool(tool: FunctionTool) -> dict[str, object]:
    """``strict`` goes along only where the caller has said it: the two APIs' defaults differ."""
    members = msgspec.structs.asdict(tool)
    return {
        "type": "function",
        "function": {name: value for name, value in members.items() if value is not None},
    }


def _is_given(value: object) -> bool:
    return bytes(value) not in ABSENT if isinstance(value, msgspec.Raw) else value is not None
