"""A chat completion's request, for a server that speaks Messages.

Dropped, because no answer depends on it: labels and cache hints of OpenAI's own storage, the
``detail`` of an image (the server sizes images itself), text of white space only (the server
refuses it), and thoughts without a signature (the server takes back only what it has signed).
"""

import re
from typing import Final

import msgspec

from app.modules.routing.domain.messages.chat import (
    ChatMessage,
    ChatRequest,
    ChatTool,
    ImageUrl,
    Part,
    ReasoningDetail,
    ResponseFormat,
    ToolCall,
)
from app.modules.routing.domain.messages.reading import (
    ABSENT,
    UNREADABLE,
    BadMember,
    decoded,
    is_given,
    members_of,
    refuse_unmapped,
)
from app.modules.routing.domain.messages.thinking import thinking_for
from app.modules.routing.domain.messages.wire import (
    Block,
    MessagesRequest,
    Metadata,
    OutputConfig,
    OutputFormat,
    Source,
    Tool,
    ToolChoice,
    Turn,
)
from app.modules.routing.domain.unmappable import Unmappable

# Messages demand a limit, where chat completions mean "as much as the model can". It is the most
# that each Claude model still served accepts: Opus 4.1 has the least.
DEFAULT_MAX_TOKENS: Final = 32_000
MAX_TEMPERATURE: Final = 1.0
# Of whom a signed thought is. One of another vendor's would be refused.
THOUGHT_FORMAT: Final = "anthropic-claude-v1"
NO_PARAMETERS: Final = msgspec.Raw(b'{"type":"object","properties":{}}')

STORAGE_MEMBERS: Final = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "session_id",
    }
)
KNOWN: Final = STORAGE_MEMBERS | frozenset(ChatRequest.__struct_fields__)
NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "frequency_penalty": (0,),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "store": (False,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}
SERVICE_TIERS: Final = {"auto": None, "default": "standard_only"}
TOOL_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}
IMAGE_DATA = re.compile(r"data:(image/(?:png|jpe?g|gif|webp));base64,", re.I)
WEB_URL = re.compile(r"https?://", re.I)

_request = msgspec.json.Decoder(ChatRequest)
_arguments = msgspec.json.Decoder(dict[str, msgspec.Raw])


def messages_request(chat_body: bytes, model: str) -> bytes:
    """Translate a request.

    ``Unmappable`` names a member that the Messages API has nothing like, ``BadMember`` one that
    chat completions do not allow either.
    """
    refuse_unmapped(members_of(chat_body), KNOWN, NEUTRAL, "The Messages API")
    chat = decoded(_request, chat_body)
    system, turns = _conversation(chat.messages)
    limit_tokens = chat.max_completion_tokens or chat.max_tokens or DEFAULT_MAX_TOKENS
    thinking, effort = thinking_for(chat.reasoning_effort, model, limit_tokens)
    schema = _output_format(chat.response_format)
    user = chat.safety_identifier or chat.user
    request = MessagesRequest(
        model=model,
        max_tokens=limit_tokens,
        messages=turns,
        system=system or None,
        tools=[_tool(tool, f"tools[{at}]") for at, tool in enumerate(chat.tools or ())] or None,
        tool_choice=_tool_choice(chat),
        thinking=thinking,
        output_config=OutputConfig(effort, schema) if effort or schema else None,
        stop_sequences=_stop_sequences(chat.stop),
        temperature=_temperature(chat.temperature),
        top_p=chat.top_p,
        top_k=chat.top_k,
        metadata=Metadata(user) if user else None,
        service_tier=_service_tier(chat.service_tier),
        stream=chat.stream or None,
    )
    return msgspec.json.encode(request)


def _conversation(messages: list[ChatMessage]) -> tuple[list[Block], list[Turn]]:
    """Split off the system prompt, and join what one side says in a row into one turn.

    So the results of parallel tool calls are in the one turn in which the server wants them.
    """
    system: list[Block] = []
    turns: list[tuple[str, list[Block]]] = []
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        role, blocks = _said(message, at)
        if role == "system":
            if turns:
                text = "The Messages API has its system prompt before all other messages."
                raise Unmappable(text, param=f"{at}.role")
            system += blocks
        elif blocks and turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((role, blocks))
    if not turns:
        text = "`messages` needs one that is not empty, and not the system's."
        raise BadMember(text, param="messages")
    return system, [Turn(role, list(blocks)) for role, blocks in turns]


def _said(message: ChatMessage, at: str) -> tuple[str, list[Block]]:
    """The role and the blocks of one message."""
    if message.role == "tool":
        return "user", [_tool_result(message, at)]
    if message.role not in {"system", "developer", "user", "assistant"}:
        text = "The Messages API knows the roles system, developer, user, assistant and tool."
        raise Unmappable(text, param=f"{at}.role")
    for member in ("name", "audio", "function_call"):
        value = getattr(message, member)
        if is_given(value) if isinstance(value, msgspec.Raw) else value:
            text = f"The Messages API has nothing like a message's `{member}`."
            raise Unmappable(text, param=f"{at}.{member}")
    said = _content(message, at)
    if message.role != "assistant":
        return ("user" if message.role == "user" else "system"), said
    calls = [
        _tool_use(call, f"{at}.tool_calls[{number}]")
        for number, call in enumerate(message.tool_calls or ())
    ]
    refusal = [Block("text", text=message.refusal)] if (message.refusal or "").strip() else []
    return "assistant", [*_thoughts(message.reasoning_details or []), *said, *refusal, *calls]


def _content(message: ChatMessage, at: str) -> list[Block]:
    content = message.content
    if isinstance(content, str):
        return [Block("text", text=content)] if content.strip() else []
    blocks = []
    for number, part in enumerate(content or ()):
        block = _block(part, f"{at}.content[{number}]")
        if block.type == "image" and message.role not in {"user", "tool"}:
            text = "The Messages API takes images from the user and from tools only."
            raise Unmappable(text, param=f"{at}.content[{number}].type")
        if block.type != "text" or (block.text or "").strip():
            blocks.append(block)
    return blocks


def _block(part: Part, at: str) -> Block:
    if part.type == "image_url":
        return Block("image", source=_image(part, at), cache_control=_hint(part.cache_control))
    if part.type not in {"text", "refusal"}:
        text = "The Messages API takes parts of the types text and image_url here."
        raise Unmappable(text, param=f"{at}.type")
    said = part.text if part.type == "text" else part.refusal
    if said is None:
        raise BadMember(f"`{part.type}` is missing.", param=f"{at}.{part.type}")
    return Block("text", text=said, cache_control=_hint(part.cache_control))


def _image(part: Part, at: str) -> Source:
    given = part.image_url
    url = given.url if isinstance(given, ImageUrl) else given or ""
    if WEB_URL.match(url):
        return Source("url", url=url)
    found = IMAGE_DATA.match(url)
    if found is None:
        text = "An image is an http(s) URL, or a base64 data URL of a PNG, JPEG, GIF or WebP."
        raise Unmappable(text, param=f"{at}.image_url.url")
    media_type = found[1].lower().replace("jpg", "jpeg")
    return Source("base64", media_type=media_type, data=url[found.end() :])


def _tool_result(message: ChatMessage, at: str) -> Block:
    if not message.tool_call_id:
        raise BadMember("A tool's message needs its call's id.", param=f"{at}.tool_call_id")
    said = _content(message, at)
    return Block("tool_result", tool_use_id=message.tool_call_id, content=said or None)


def _tool_use(call: ToolCall, at: str) -> Block:
    if call.type != "function" or call.function is None:
        text = "The Messages API has calls of functions only."
        raise Unmappable(text, param=f"{at}.type")
    arguments = call.function.arguments.strip() or "{}"
    try:
        _arguments.decode(arguments)
    except UNREADABLE:
        text = "The arguments of a call need to be a JSON object in a string."
        raise BadMember(text, param=f"{at}.function.arguments") from None
    given = msgspec.Raw(arguments.encode())
    return Block("tool_use", id=call.id, name=call.function.name, input=given)


def _thoughts(details: list[ReasoningDetail]) -> list[Block]:
    """What the server has signed, or has sealed, as it has to be handed back."""
    blocks = []
    for detail in details:
        if detail.format not in {None, THOUGHT_FORMAT}:
            continue
        if detail.type == "reasoning.text" and detail.signature:
            thought = detail.text or ""
            blocks.append(Block("thinking", thinking=thought, signature=detail.signature))
        elif detail.type == "reasoning.encrypted" and detail.data:
            blocks.append(Block("redacted_thinking", data=detail.data))
    return blocks


def _tool(tool: ChatTool, at: str) -> Tool:
    if tool.type != "function" or tool.function is None:
        raise Unmappable("The Messages API has tools that are functions.", param=f"{at}.type")
    function = tool.function
    return Tool(
        function.name,
        description=function.description,
        input_schema=function.parameters if is_given(function.parameters) else NO_PARAMETERS,
        strict=function.strict or None,
        cache_control=_hint(tool.cache_control),
    )


def _tool_choice(chat: ChatRequest) -> ToolChoice | None:
    """OpenAI's choice and its word on parallel calls, which Messages have in one member."""
    is_single = True if chat.parallel_tool_calls is False and chat.tools else None
    choice = chat.tool_choice
    if choice is None or (choice in {"auto", "none"} and not chat.tools):
        return ToolChoice("auto", disable_parallel_tool_use=True) if is_single else None
    if isinstance(choice, str):
        if choice not in TOOL_CHOICES:
            raise BadMember("`tool_choice` is auto, none or required.", param="tool_choice")
        kind = TOOL_CHOICES[choice]
        return ToolChoice(kind, disable_parallel_tool_use=None if kind == "none" else is_single)
    if choice.type != "function" or choice.function is None:
        text = "The Messages API can be told one function to call, by name."
        raise Unmappable(text, param="tool_choice.type")
    return ToolChoice("tool", choice.function.name, is_single)


def _output_format(given: ResponseFormat | None) -> OutputFormat | None:
    """A schema is kept to. "Any JSON object" is not a thing that the Messages API can promise."""
    if given is None or given.type == "text":
        return None
    if given.type != "json_schema":
        text = "The Messages API keeps to a schema: ask with a response_format of json_schema."
        raise Unmappable(text, param="response_format.type")
    if given.json_schema is None or not is_given(given.json_schema.schema):
        text = "A response_format of json_schema needs its schema."
        raise BadMember(text, param="response_format.json_schema.schema")
    return OutputFormat("json_schema", given.json_schema.schema)


def _stop_sequences(stop: str | list[str] | None) -> list[str] | None:
    sequences = [stop] if isinstance(stop, str) else stop or []
    if any(not sequence.strip() for sequence in sequences):
        text = "The Messages API does not stop at white space alone."
        raise Unmappable(text, param="stop")
    return sequences or None


def _temperature(temperature: float | None) -> float | None:
    """Above 1 is refused and not clamped: the answer would be another than was asked for."""
    if temperature is not None and not 0 <= temperature <= MAX_TEMPERATURE:
        text = f"The Messages API takes a temperature from 0 to {MAX_TEMPERATURE:g}."
        raise Unmappable(text, param="temperature")
    return temperature


def _service_tier(tier: str | None) -> str | None:
    if tier is not None and tier not in SERVICE_TIERS:
        raise Unmappable("The Messages API has no such service tier.", param="service_tier")
    return SERVICE_TIERS[tier] if tier else None


def _hint(cache_control: msgspec.Raw) -> msgspec.Raw:
    return cache_control if is_given(cache_control) else ABSENT
