"""What an answer says of its usage and its errors, in each wire format.

Usage shapes after the public API references of OpenAI (chat, completions, embeddings, responses)
and Anthropic (messages). OpenAI counts cached tokens inside the prompt's; Anthropic beside them.
"""

from typing import Protocol

import msgspec

from app.modules.routing.domain.messages.usage import MessageUsage


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of one call. ``None`` is "not told", which is not the same as none.

    Cached, cache-write and audio input are parts of ``input``; reasoning and audio output are
    parts of ``output``.
    """

    input: int | None = None
    output: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None


class Part(msgspec.Struct, frozen=True):
    """The part of an answer, or of one stream event, that is ours."""

    tokens: Tokens | None = None
    error: bytes = b""
    has_content: bool = False
    is_last: bool = False


class _InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    audio_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cache_write_tokens: int | None = None

    @property
    def written(self) -> int | None:
        """Two names for one thing: the Responses API's, and that of chats translated here."""
        told = self.cache_write_tokens
        return self.cache_creation_tokens if told is None else told


class _OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _OpenAIUsage(msgspec.Struct, frozen=True):
    """Chat, completions and embeddings name their members one way, responses another."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    # DeepSeek's name for what others put into the details.
    prompt_cache_hit_tokens: int | None = None

    def tokens(self) -> Tokens:
        told = self.prompt_tokens_details or self.input_tokens_details or _InputDetails()
        said = self.completion_tokens_details or self.output_tokens_details or _OutputDetails()
        cached = told.cached_tokens
        return Tokens(
            input=self.prompt_tokens if self.prompt_tokens is not None else self.input_tokens,
            output=(
                self.completion_tokens if self.completion_tokens is not None else self.output_tokens
            ),
            cached=self.prompt_cache_hit_tokens if cached is None else cached,
            cache_write=told.written,
            reasoning=said.reasoning_tokens,
            audio_input=told.audio_tokens,
            audio_output=said.audio_tokens,
        )


class _Delta(msgspec.Struct, frozen=True):
    content: msgspec.Raw = msgspec.Raw()
    reasoning_content: msgspec.Raw = msgspec.Raw()
    reasoning: msgspec.Raw = msgspec.Raw()
    refusal: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()
    function_call: msgspec.Raw = msgspec.Raw()
    audio: msgspec.Raw = msgspec.Raw()
    images: msgspec.Raw = msgspec.Raw()

    @property
    def is_empty(self) -> bool:
        return all(bytes(getattr(self, name)) in NOTHING for name in self.__struct_fields__)


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None
    text: msgspec.Raw = msgspec.Raw()
    finish_reason: str | None = None

    @property
    def has_content(self) -> bool:
        if self.finish_reason or bytes(self.text) not in NOTHING:
            return True
        return self.delta is not None and not self.delta.is_empty


class _Whole(msgspec.Struct, frozen=True):
    usage: _OpenAIUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Chunk(_Whole, frozen=True):
    choices: list[_Choice] | None = None


class _ResponsesEvent(msgspec.Struct, frozen=True):
    type: str = ""
    response: _Whole | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct, frozen=True):
    usage: MessageUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _MessagesEvent(msgspec.Struct, frozen=True):
    type: str = ""
    message: _Message | None = None
    usage: MessageUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


USAGE = b'"usage"'
NOTHING = frozenset({b"", b"null", b'""', b"[]", b"{}"})
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
CONTENT_DELTAS = ("delta", ".done", "output_item.added")

_whole = msgspec.json.Decoder(_Whole)
_chunk = msgspec.json.Decoder(_Chunk)
_responses_event = msgspec.json.Decoder(_ResponsesEvent)
_message = msgspec.json.Decoder(_Message)
_messages_event = msgspec.json.Decoder(_MessagesEvent)


def _message_tokens(usage: MessageUsage | None) -> Tokens | None:
    if usage is None:
        return None
    return Tokens(
        input=usage.prompt_tokens,
        output=usage.output_tokens,
        cached=usage.cache_read_tokens,
        cache_write=usage.cache_write_tokens,
        reasoning=usage.thinking_tokens,
    )


def _error(raw: msgspec.Raw) -> bytes:
    text = bytes(raw)
    return b"" if text == b"null" else text


def read_answer(body: bytes) -> Part | None:
    """Read a whole answer of OpenAI's; ``None`` when it is no JSON object of that kind."""
    try:
        found = _whole.decode(body)
    except UNREADABLE:
        return None
    return Part(found.usage.tokens() if found.usage else None, _error(found.error))


def read_message(body: bytes) -> Part | None:
    """Read a whole answer of Anthropic's."""
    try:
        found = _message.decode(body)
    except UNREADABLE:
        return None
    return Part(_message_tokens(found.usage), _error(found.error))


class Wire(Protocol):
    """How the events of one wire format are read.

    ``marks``: bytes of which at least one is in every event that says something of usage, of an
    error or of the end.
    """

    marks: tuple[bytes, ...]

    def read(self, data: bytes) -> Part: ...


class ChatWire:
    """``chat/completions``, ``completions`` and ``embeddings``."""

    marks: tuple[bytes, ...] = (USAGE, b'"error"', b"[DONE]")

    def read(self, data: bytes) -> Part:
        if data == b"[DONE]":
            return Part(is_last=True)
        try:
            found = _chunk.decode(data)
        except UNREADABLE:
            return Part()
        has_content = any(choice.has_content for choice in found.choices or ())
        tokens = found.usage.tokens() if found.usage else None
        return Part(tokens, _error(found.error), has_content=has_content)


class ResponsesWire:
    """``responses``: the last event carries the whole response, usage included."""

    marks: tuple[bytes, ...] = (
        b"response.completed",
        b"response.incomplete",
        b"response.failed",
        b'"error"',
    )

    def read(self, data: bytes) -> Part:
        try:
            found = _responses_event.decode(data)
        except UNREADABLE:
            return Part()
        is_last = found.type in {"response.completed", "response.incomplete", "response.failed"}
        inner = found.response if is_last else None
        tokens = inner.usage.tokens() if inner is not None and inner.usage else None
        error = _error(inner.error) if inner is not None else b""
        if found.type == "error":
            error = data
        has_content = any(mark in found.type for mark in CONTENT_DELTAS)
        return Part(tokens, error, has_content=has_content, is_last=is_last)


class MessagesWire:
    """``messages``: input tokens come with the first event, output tokens with the last ones."""

    marks: tuple[bytes, ...] = (b"message_start", b"message_delta", b"message_stop", b'"error"')

    def __init__(self) -> None:
        self._usage = MessageUsage()

    def read(self, data: bytes) -> Part:
        try:
            found = _messages_event.decode(data)
        except UNREADABLE:
            return Part()
        for told in (found.usage, found.message.usage if found.message else None):
            if told is not None:
                self._usage = self._usage.merged(told)
        error = _error(found.error) if found.type == "error" else b""
        has_content = found.type.startswith("content_block")
        tokens = _message_tokens(self._usage)
        return Part(tokens, error, has_content=has_content, is_last=found.type == "message_stop")
