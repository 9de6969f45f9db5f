"""What is asked in the form of ``/infer``, and how a conversation becomes a prompt.

One message of the user alone is the prompt as it is. A longer conversation is written out, a
paragraph for each message, and leaves the last word to the model::

    System: You are brief.

    User: How are you?

    Assistant:

An agent puts its model's own template around the prompt; that of the conversation is lost on it.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from app.kernel.errors import Invalid
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.unmappable import Unmappable

CARRIED: Final = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "stream",
        "stream_options",
    }
)
# Members that say nothing of the answer.
SILENT: Final = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "session_id",
        "store",
        "user",
    }
)
# What members may say, beside ``null``, that is so in any case.
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "annotations": ([],),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "stop": ([],),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "top_p": (1,),
}
SPEAKERS: Final = {
    "assistant": "Assistant",
    "developer": "System",
    "system": "System",
    "user": "User",
}
MESSAGE_MEMBERS: Final = frozenset({"role", "content"})


class BadAsk(Invalid):
    """The body is neither the form's nor OpenAI's."""

    title = "Invalid request body"


class _Options(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Asked(msgspec.Struct, frozen=True):
    """The members that the form has too, as OpenAI names them."""

    model: str = ""
    messages: list[dict[str, Any]] | None = None
    prompt: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stream: bool | None = None
    stream_options: _Options | None = None


class InferAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call in the form. ``model`` is for agents that have several."""

    prompt: str
    model: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    stream: bool | None = None

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(self)


class InferCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an agent is asked. Without a ``model``, it takes its own."""

    prompt: str
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] = 512
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.7
    stream: bool = False
    model: str = ""


class DoorAsk(msgspec.Struct, frozen=True):
    """A call at an agent's door, as chat completions. ``is_text``: it came in the form."""

    chat_body: bytes
    is_text: bool
    is_streamed: bool


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_asked = msgspec.json.Decoder(_Asked)
_create = msgspec.json.Decoder(InferCreate)


def infer_ask(surface: Surface, body: bytes) -> InferAsk:
    """Put a call into the form; ``Unmappable`` names what the form cannot carry."""
    if surface not in {"chat/completions", "completions"}:
        raise Unmappable(f"This worker's /infer has no counterpart of {surface}.", param="model")
    try:
        members, asked = _members.decode(body), _asked.decode(body)
        _refuse_others(members)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAsk(f"The body is no {surface} request: {error}.") from None
    is_chat = surface == "chat/completions"
    return InferAsk(
        prompt=prompt_of(asked.messages or []) if is_chat else _lone_prompt(asked.prompt),
        model=asked.model,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        stream=asked.stream,
    )


def wants_usage(body: bytes) -> bool:
    """Whether a stream is to end with its usage."""
    options = _asked.decode(body).stream_options
    return bool(options and options.include_usage)


def prompt_of(messages: list[dict[str, Any]]) -> str:
    """Write a conversation as a prompt; see the top of this file."""
    said = [_said(index, message) for index, message in enumerate(messages)]
    if len(said) == 1 and said[0][0] == "User":
        return said[0][1]
    paragraphs = [f"{speaker}: {text}" for speaker, text in said]
    return "\n\n".join([*paragraphs, "Assistant:"])


def door_ask(body: bytes, own_model: Callable[[], str]) -> DoorAsk:
    """Read what an agent is asked: the form, or chat completions. ``own_model`` names the model
    for whoever names none.
    """
    try:
        members = _members.decode(body)
        if "messages" in members:
            return _chat_ask(body, members, own_model)
        asked = _create.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAsk(f"{error}. Send a `prompt`, or `messages` as OpenAI has them.") from None
    chat = {
        "model": asked.model or own_model(),
        "messages": [{"role": "user", "content": asked.prompt}],
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
    }
    if asked.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return DoorAsk(msgspec.json.encode(chat), is_text=True, is_streamed=asked.stream)


def _chat_ask(
    body: bytes, members: dict[str, msgspec.Raw], own_model: Callable[[], str]
) -> DoorAsk:
    asked = _asked.decode(body)
    if not asked.model:
        named = {"model": msgspec.Raw(msgspec.json.encode(own_model()))}
        body = msgspec.json.encode(members | named)
    return DoorAsk(body, is_text=False, is_streamed=bool(asked.stream))


def _refuse_others(members: dict[str, msgspec.Raw]) -> None:
    for name, raw in members.items():
        if name not in CARRIED and name not in SILENT and not _is_neutral(name, raw):
            raise _uncarried(name)


def _is_neutral(name: str, raw: msgspec.Raw) -> bool:
    value = msgspec.json.decode(raw)
    return value is None or value in NEUTRAL.get(name, ())


def _said(index: int, message: dict[str, Any]) -> tuple[str, str]:
    """Who speaks in a message, and what."""
    place = f"messages.{index}"
    for name, value in message.items():
        if name not in MESSAGE_MEMBERS and value is not None and value not in NEUTRAL.get(name, ()):
            raise _uncarried(f"{place}.{name}")
    role = message.get("role")
    speaker = SPEAKERS.get(role) if isinstance(role, str) else None
    if speaker is None:
        raise _uncarried(f"{place}.role")
    return speaker, _text(f"{place}.content", message.get("content"))


def _text(place: str, content: Any) -> str:
    """The text of a message: a string, or parts that are all text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise _uncarried(place)
    texts = []
    for index, part in enumerate(content):
        found = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(found, str):
            raise _uncarried(f"{place}.{index}")
        texts.append(found)
    return "\n".join(texts)


def _lone_prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise _uncarried("prompt")
    return prompt


def _uncarried(place: str) -> Unmappable:
    return Unmappable(
        f"`{place}` cannot be sent to this worker: its /infer takes one prompt, max_tokens, "
        "temperature and stream. Leave it out, or choose another model.",
        param=place,
    )
