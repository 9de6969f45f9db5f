"""A chat completion's request, for the Gemini API.

Dropped, because no answer depends on it: labels and cache hints of OpenAI's own storage, the
``detail`` of an image (the server sizes images itself), empty text (the server refuses it), and
``strict`` of a function (the server keeps to a schema as well as it can in any case).
"""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from app.modules.routing.domain.envelope import ROUTING_MEMBERS
from app.modules.routing.domain.google.chat import (
    ChatMessage,
    ChatRequest,
    ChatTool,
    ImageUrl,
    ResponseFormat,
    ToolCall,
)
from app.modules.routing.domain.google.chat import Part as ChatPart
from app.modules.routing.domain.google.thinking import is_level_model, thinking_for
from app.modules.routing.domain.google.wire import (
    Blob,
    Content,
    FunctionCall,
    FunctionCalling,
    FunctionDeclaration,
    FunctionResponse,
    GenerateRequest,
    GenerationConfig,
    Part,
    Tool,
    ToolConfig,
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
from app.modules.routing.domain.unmappable import Unmappable

# What Google documents for calls in a history that another model has made: from Gemini 3 on, a
# call without any signature is refused.
FOREIGN_SIGNATURE: Final = "skip_thought_signature_validator"
HINTS: Final = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "session_id",
        "stream",
        "stream_options",
        "user",
    }
)
KNOWN: Final = HINTS | ROUTING_MEMBERS | frozenset(ChatRequest.__struct_fields__)
NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
}
MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.I)
WEB_URL: Final = re.compile(r"https?://", re.I)
SERVER: Final = "The Gemini API"

_request = msgspec.json.Decoder(ChatRequest)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def generate_request(chat_body: bytes) -> bytes:
    """Translate a request; its ``model`` decides how thinking is asked for.

    ``Unmappable`` names a member that the Gemini API has nothing like, ``BadMember`` one that
    chat completions do not allow either.
    """
    refuse_unmapped(members_of(chat_body), KNOWN, NEUTRAL, SERVER)
    chat = decoded(_request, chat_body)
    system, contents = _conversation(chat.messages, needs_signatures=is_level_model(chat.model))
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(chat.tools or ())]
    generation = _generation(chat)
    request = GenerateRequest(
        contents=contents,
        system_instruction=Content(parts=system) if system else None,
        tools=[Tool(tools)] if tools else None,
        tool_config=_tool_config(chat) if tools else None,
        generation_config=generation if generation != GenerationConfig() else None,
    )
    return msgspec.json.encode(request)


def _generation(chat: ChatRequest) -> GenerationConfig:
    mime_type, schema = _output_format(chat.response_format)
    return GenerationConfig(
        candidate_count=chat.n,
        max_output_tokens=chat.max_completion_tokens or chat.max_tokens or None,
        temperature=chat.temperature,
        top_p=chat.top_p,
        top_k=chat.top_k,
        seed=chat.seed,
        stop_sequences=[chat.stop] if isinstance(chat.stop, str) else chat.stop or None,
        presence_penalty=chat.presence_penalty,
        frequency_penalty=chat.frequency_penalty,
        response_logprobs=chat.logprobs or None,
        logprobs=(chat.top_logprobs or None) if chat.logprobs else None,
        response_mime_type=mime_type,
        response_json_schema=schema,
        thinking_config=thinking_for(chat.reasoning_effort, chat.model),
    )


def _conversation(
    messages: Sequence[ChatMessage], *, needs_signatures: bool
) -> tuple[list[Part], list[Content]]:
    """Split off the system prompt, and join what one side says in a row into one turn.

    The results of parallel calls have to be in one turn, and nothing else may be in it. A system
    prompt that is alone is asked as a question: there must be one.
    """
    system: list[Part] = []
    turns: list[tuple[str, list[Part]]] = []
    names: dict[str, str] = {}
    for number, message in enumerate(messages):
        role, parts = _said(message, f"messages[{number}]", names)
        if role == "model" and needs_signatures:
            parts = _signed(parts)
        if role == "system":
            system += parts
        elif parts and turns and turns[-1][0] == role and _is_like(turns[-1][1], parts):
            turns[-1][1].extend(parts)
        elif parts:
            turns.append((role, list(parts)))
    if not turns:
        turns, system = [("user", system)], []
    if not turns[0][1]:
        raise BadMember("`messages` needs one that says something.", param="messages")
    return system, [Content(role, parts) for role, parts in turns]


def _is_like(one: list[Part], other: list[Part]) -> bool:
    """Whether both are results of functions, or neither is."""
    return (one[0].function_response is None) == (other[0].function_response is None)


def _said(message: ChatMessage, at: str, names: dict[str, str]) -> tuple[str, list[Part]]:
    """The role and the parts of one message. ``names`` gathers those of the functions called."""
    for member in ("name", "audio", "function_call"):
        value = getattr(message, member)
        if is_given(value) if isinstance(value, msgspec.Raw) else value and message.role != "tool":
            text = f"{SERVER} has nothing like a message's `{member}`."
            raise Unmappable(text, param=f"{at}.{member}")
    if message.role in {"system", "developer"}:
        return "system", _text_parts(message, at)
    if message.role == "user":
        return "user", _parts(message, at)
    if message.role == "tool":
        return "user", [_result(message, at, names)]
    if message.role != "assistant":
        text = f"{SERVER} knows the roles system, developer, user, assistant and tool."
        raise Unmappable(text, param=f"{at}.role")
    calls = [
        _call(call, f"{at}.tool_calls[{number}]")
        for number, call in enumerate(message.tool_calls or ())
    ]
    names |= {c.id: c.function.name for c in message.tool_calls or () if c.function}
    return "model", _spoken(message, at) + calls


def _spoken(message: ChatMessage, at: str) -> list[Part]:
    """What the model said; the signature of its text belongs to the last piece."""
    parts = _text_parts(message, at)
    if message.refusal:
        parts.append(Part(text=message.refusal))
    signature = message.extra_content.signature if message.extra_content else None
    if signature and parts:
        parts[-1] = msgspec.structs.replace(parts[-1], thought_signature=signature)
    return parts


def _signed(parts: list[Part]) -> list[Part]:
    """Put the documented mark onto a first call that nobody has signed."""
    for place, part in enumerate(parts):
        if part.function_call is None:
            continue
        if part.thought_signature is None:
            marked = msgspec.structs.replace(part, thought_signature=FOREIGN_SIGNATURE)
            return [*parts[:place], marked, *parts[place + 1 :]]
        break
    return parts


def _text_parts(message: ChatMessage, at: str) -> list[Part]:
    parts = _parts(message, at)
    for number, part in enumerate(parts):
        if part.text is None:
            text = f"{SERVER} takes images, audio and files from the user only."
            raise Unmappable(text, param=f"{at}.content[{number}].type")
    return parts


def _parts(message: ChatMessage, at: str) -> list[Part]:
    content = message.content
    if isinstance(content, str):
        return [Part(text=content)] if content else []
    found = (_part(part, f"{at}.content[{n}]") for n, part in enumerate(content or ()))
    return [part for part in found if part.text != ""]


def _part(part: ChatPart, at: str) -> Part:
    match part.type:
        case "text" | "refusal":
            said = part.text if part.type == "text" else part.refusal
            if said is None:
                raise BadMember(f"`{part.type}` is missing.", param=f"{at}.{part.type}")
            return Part(text=said)
        case "image_url":
            given = part.image_url
            url = given.url if isinstance(given, ImageUrl) else given
            return Part(inline_data=_blob(url, f"{at}.image_url.url"))
        case "input_audio":
            if part.input_audio is None:
                raise BadMember("`input_audio` is missing.", param=f"{at}.input_audio")
            audio = part.input_audio
            return Part(inline_data=Blob(f"audio/{audio.format}", audio.data))
        case "file":
            data = part.file.file_data if part.file else None
            return Part(inline_data=_blob(data, f"{at}.file.file_data"))
    text = f"{SERVER} takes parts of the types text, image_url, input_audio and file."
    raise Unmappable(text, param=f"{at}.type")


def _blob(url: str | None, at: str) -> Blob:
    """Read a data URL. Another one would have to be fetched, and this server fetches nothing."""
    if url is not None and WEB_URL.match(url):
        text = f"{SERVER} takes no URL of the web here; send the data itself, as a data URL."
        raise Unmappable(text, param=at)
    found = DATA_URL.match(url or "")
    if url is None or found is None:
        raise Unmappable("Data is sent as `data:<media type>;base64,<data>`.", param=at)
    return Blob(found[1].lower(), url[found.end() :])


def _call(call: ToolCall, at: str) -> Part:
    if call.type != "function" or call.function is None:
        raise Unmappable(f"{SERVER} has calls of functions only.", param=f"{at}.type")
    arguments = call.function.arguments or "{}"
    if not _is_object(arguments):
        text = "The arguments of a call need to be a JSON object in a string."
        raise BadMember(text, param=f"{at}.function.arguments")
    given = FunctionCall(call.function.name, msgspec.Raw(arguments.encode()), call.id)
    return Part(function_call=given, thought_signature=call.signature)


def _result(message: ChatMessage, at: str, names: dict[str, str]) -> Part:
    """What a function returned. Gemini knows calls by their function's name."""
    called = message.tool_call_id or ""
    name = names.get(called) or message.name
    if not name:
        text = "A tool's message needs the id of a call that an earlier message has made."
        raise BadMember(text, param=f"{at}.tool_call_id")
    said = "".join(part.text or "" for part in _text_parts(message, at))
    output = msgspec.Raw(said.encode()) if _is_object(said) else said
    return Part(function_response=FunctionResponse(name, {"output": output}, called or None))


def _is_object(text: str) -> bool:
    try:
        _object.decode(text)
    except UNREADABLE:
        return False
    return True


def _tool(tool: ChatTool, at: str) -> FunctionDeclaration:
    if tool.type != "function" or tool.function is None:
        raise Unmappable(f"{SERVER} is given tools that are functions.", param=f"{at}.type")
    function = tool.function
    schema = function.parameters if is_given(function.parameters) else ABSENT
    return FunctionDeclaration(function.name, function.description, schema)


def _tool_config(chat: ChatRequest) -> ToolConfig | None:
    choice = chat.tool_choice
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in MODES:
            raise BadMember("`tool_choice` is auto, none or required.", param="tool_choice")
        return ToolConfig(FunctionCalling(MODES[choice]))
    if choice.type != "function" or choice.function is None:
        text = f"{SERVER} can be told one function to call, by name."
        raise Unmappable(text, param="tool_choice.type")
    return ToolConfig(FunctionCalling("ANY", [choice.function.name]))


def _output_format(given: ResponseFormat | None) -> tuple[str | None, msgspec.Raw]:
    if given is None or given.type == "text":
        return None, ABSENT
    if given.type == "json_object":
        return "application/json", ABSENT
    if given.type != "json_schema":
        text = f"{SERVER} answers as text, json_object or json_schema."
        raise Unmappable(text, param="response_format.type")
    if given.json_schema is None or not is_given(given.json_schema.schema):
        text = "A response_format of json_schema needs its schema."
        raise BadMember(text, param="response_format.json_schema.schema")
    return "application/json", given.json_schema.schema
