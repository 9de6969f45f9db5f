"""A Messages request, for a server that speaks chat completions.

Dropped, because no answer depends on it: cache hints, which chat servers set for themselves, and
citations and thoughts of earlier turns. A thought is dropped although its server has signed it,
because chat completions have no member for one, and strict servers refuse what they do not know.
"""

from typing import Final

import msgspec

from app.modules.routing.domain.messages.chat import (
    CalledFunction,
    ChatMessage,
    ChatRequest,
    ChatTool,
    ChatToolChoice,
    Function,
    FunctionName,
    ImageUrl,
    JsonSchema,
    Part,
    ResponseFormat,
    StreamOptions,
    ToolCall,
)
from app.modules.routing.domain.messages.reading import (
    BadMember,
    decoded,
    is_given,
    members_of,
    refuse_unmapped,
)
from app.modules.routing.domain.messages.thinking import effort_for
from app.modules.routing.domain.messages.wire import (
    Block,
    ContextManagement,
    MessagesRequest,
    OutputConfig,
    Source,
    Tool,
    ToolChoice,
    Turn,
)
from app.modules.routing.domain.unmappable import Unmappable

KNOWN: Final = frozenset(MessagesRequest.__struct_fields__) | {"cache_control"}
NEUTRAL: Final[dict[str, tuple[object, ...]]] = {"mcp_servers": ([],)}
# Chat completions cannot mark a tool's failure, so its text does.
ERROR_PREFIX: Final = "Error: "
# A tool's message is text in chat completions: its images follow as the user's.
IMAGE_FOLLOWS: Final = "The result is the image that follows."
SCHEMA_NAME: Final = "output"
CLEARS_THOUGHTS: Final = "clear_thinking"
TOOL_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
SERVICE_TIERS: Final = {"auto": None, "standard_only": "default"}
THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})

Placed = tuple[str, Block]
"""A block, and where in the request it stands."""

_request = msgspec.json.Decoder(MessagesRequest)
_managed = msgspec.json.Decoder(ContextManagement)


def chat_request(messages_body: bytes) -> bytes:
    """Translate a request.

    The limit becomes ``max_tokens``: every chat server knows it, while some pass over
    ``max_completion_tokens`` in silence, and answer without a limit. ``Unmappable`` names a member
    that chat completions have nothing like, ``BadMember`` one that Messages do not allow either.
    """
    members = members_of(messages_body)
    managed = members.pop("context_management", None)
    if managed is not None and is_given(managed):
        _check_context(managed)
    refuse_unmapped(members, KNOWN, NEUTRAL, "A chat completion")
    given = decoded(_request, messages_body)
    choice, is_parallel = _tool_choice(given.tool_choice)
    request = ChatRequest(
        model=given.model,
        messages=_system(given.system) + _conversation(given.messages),
        max_tokens=given.max_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
        stop=given.stop_sequences or None,
        tools=[_tool(tool, f"tools[{at}]") for at, tool in enumerate(given.tools or ())] or None,
        tool_choice=choice if given.tools or choice not in {"auto", "none"} else None,
        parallel_tool_calls=is_parallel if given.tools else None,
        reasoning_effort=effort_for(given.thinking, given.output_config),
        response_format=_response_format(given.output_config),
        user=given.metadata.user_id if given.metadata else None,
        service_tier=_service_tier(given.service_tier),
        stream=given.stream or None,
        stream_options=StreamOptions(include_usage=True) if given.stream else None,
    )
    return msgspec.json.encode(request)


def _check_context(managed: msgspec.Raw) -> None:
    """Thoughts of earlier turns are dropped anyway; nothing else of the context can be edited."""
    try:
        edits = decoded(_managed, bytes(managed)).edits or []
    except BadMember as error:
        raise BadMember(str(error), param="context_management") from None
    for number, edit in enumerate(edits):
        if not edit.type.startswith(CLEARS_THOUGHTS):
            text = "A chat completion's context cannot be edited by the server."
            raise Unmappable(text, param=f"context_management.edits[{number}].type")


def _system(system: str | list[Block] | None) -> list[ChatMessage]:
    """One message of one string: the templates of many models take no other form."""
    return _system_message(_placed(system or "", "system"))


def _conversation(given: list[Turn]) -> list[ChatMessage]:
    """Turns of one side in a row are one turn in the Messages API, and become one here."""
    turns: list[tuple[str, list[Placed]]] = []
    for number, turn in enumerate(given):
        at = f"messages[{number}]"
        if turn.role not in {"user", "assistant", "system"}:
            raise BadMember("A role is user, assistant or system.", param=f"{at}.role")
        blocks = _placed(turn.content, f"{at}.content")
        if turns and turns[-1][0] == turn.role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((turn.role, blocks))
    messages = [message for role, blocks in turns for message in _messages(role, blocks)]
    if not messages:
        raise BadMember("`messages` needs one that is not empty.", param="messages")
    return messages


def _placed(content: str | list[Block], at: str) -> list[Placed]:
    if isinstance(content, str):
        return [(at, Block("text", text=content))]
    return [(f"{at}[{number}]", block) for number, block in enumerate(content)]


def _messages(role: str, blocks: list[Placed]) -> list[ChatMessage]:
    if role == "assistant":
        return _assistant(blocks)
    if role == "system":
        return _system_message(blocks)
    results, parts = [], []
    for at, block in blocks:
        if block.type == "tool_result":
            message, images = _tool_result(block, at)
            results.append(message)
            parts += images
        elif block.type != "text" or block.text != "":
            parts.append(_part(block, at))
    if len(parts) == 1 and parts[0].type == "text":
        return [*results, ChatMessage("user", parts[0].text)]
    return [*results, ChatMessage("user", parts)] if parts else results


def _system_message(blocks: list[Placed]) -> list[ChatMessage]:
    text = "\n\n".join(text for at, block in blocks if (text := _text(block, at)))
    return [ChatMessage("system", text)] if text else []


def _assistant(blocks: list[Placed]) -> list[ChatMessage]:
    """Blocks of text are pieces of one text: the server splits them at its citations."""
    texts = [_text(b, at) for at, b in blocks if b.type != "tool_use" and b.type not in THOUGHTS]
    calls = [_tool_call(block, at) for at, block in blocks if block.type == "tool_use"]
    text = "".join(texts)
    if not text and not calls:
        return []
    return [ChatMessage("assistant", text or None, tool_calls=calls or None)]


def _text(block: Block, at: str) -> str:
    if block.type != "text":
        text = f"A chat completion takes no block of the type {block.type[:32]!r} here."
        raise Unmappable(text, param=f"{at}.type")
    if block.text is None:
        raise BadMember("A block of text needs its text.", param=f"{at}.text")
    return block.text


def _part(block: Block, at: str) -> Part:
    if block.type != "image":
        return Part("text", text=_text(block, at))
    if block.source is None:
        raise BadMember("An image needs its source.", param=f"{at}.source")
    return Part("image_url", image_url=ImageUrl(_image_url(block.source, f"{at}.source")))


def _image_url(source: Source, at: str) -> str:
    if source.type == "url" and source.url:
        return source.url
    if source.type == "base64" and source.media_type and source.data:
        return f"data:{source.media_type};base64,{source.data}"
    if source.type in {"url", "base64"}:
        raise BadMember("The source of an image is incomplete.", param=at)
    text = "A chat completion takes images as base64 and as URLs."
    raise Unmappable(text, param=f"{at}.type")


def _tool_result(block: Block, at: str) -> tuple[ChatMessage, list[Part]]:
    """The message of a result, and its images, which need another."""
    if not block.tool_use_id:
        raise BadMember("A tool's result needs its call's id.", param=f"{at}.tool_use_id")
    parts = [_part(inner, place) for place, inner in _placed(block.content or "", f"{at}.content")]
    images = [part for part in parts if part.type == "image_url"]
    text = "\n\n".join(part.text for part in parts if part.text)
    if images and not text:
        text = IMAGE_FOLLOWS
    if block.is_error:
        text = ERROR_PREFIX + text
    return ChatMessage("tool", text, tool_call_id=block.tool_use_id), images


def _tool_call(block: Block, at: str) -> ToolCall:
    if not block.id or not block.name:
        raise BadMember("A call of a tool needs `id` and `name`.", param=at)
    arguments = bytes(block.input).decode() if is_given(block.input) else "{}"
    if not arguments.startswith("{"):
        raise BadMember("The input of a tool is an object.", param=f"{at}.input")
    return ToolCall(block.id, CalledFunction(block.name, arguments))


def _tool(tool: Tool, at: str) -> ChatTool:
    if tool.type not in {None, "custom"}:
        text = "A chat completion has no tools that the server runs or defines itself."
        raise Unmappable(text, param=f"{at}.type")
    if not is_given(tool.input_schema):
        raise BadMember("A tool needs its schema.", param=f"{at}.input_schema")
    function = Function(tool.name, tool.description, tool.input_schema, tool.strict or None)
    return ChatTool("function", function)


def _tool_choice(choice: ToolChoice | None) -> tuple[str | ChatToolChoice | None, bool | None]:
    """OpenAI's ``tool_choice``, and its ``parallel_tool_calls``."""
    if choice is None:
        return None, None
    is_parallel = False if choice.disable_parallel_tool_use else None
    if choice.type in TOOL_CHOICES:
        return TOOL_CHOICES[choice.type], is_parallel
    if choice.type != "tool" or not choice.name:
        text = "`tool_choice` is auto, any, none, or a tool with its name."
        raise BadMember(text, param="tool_choice")
    return ChatToolChoice("function", FunctionName(choice.name)), is_parallel


def _response_format(config: OutputConfig | None) -> ResponseFormat | None:
    if config is None or config.format is None:
        return None
    if config.format.type != "json_schema":
        text = "A chat completion keeps to no such format."
        raise Unmappable(text, param="output_config.format.type")
    schema = JsonSchema(SCHEMA_NAME, config.format.schema, strict=True)
    return ResponseFormat("json_schema", schema)


def _service_tier(tier: str | None) -> str | None:
    if tier is not None and tier not in SERVICE_TIERS:
        raise Unmappable("A chat completion has no such service tier.", param="service_tier")
    return SERVICE_TIERS[tier] if tier else None
