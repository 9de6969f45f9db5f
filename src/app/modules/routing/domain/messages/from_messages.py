"""What a server that speaks Messages has answered, as chat completions have it."""

from typing import Final

import msgspec

from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.messages.chat import (
    CalledFunction,
    ChatError,
    ChatUsage,
    ReasoningDetail,
    ToolCall,
)
from app.modules.routing.domain.messages.reading import UNREADABLE, is_given, understood
from app.modules.routing.domain.messages.to_messages import THOUGHT_FORMAT
from app.modules.routing.domain.messages.wire import Answer, AnswerBlock, Error, ErrorAnswer

# "pause_turn" comes with tools that the server runs, which no translated request asks for.
FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
ERROR_TYPES: Final = {
    "invalid_request_error": "invalid_request_error",
    "not_found_error": "invalid_request_error",
    "request_too_large": "invalid_request_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "billing_error": "billing_error",
    "rate_limit_error": "rate_limit_error",
}


class SaidMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str | None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[ReasoningDetail] | None = None
    tool_calls: list[ToolCall] | None = None


class SaidChoice(msgspec.Struct, frozen=True):
    message: SaidMessage
    finish_reason: str
    index: int = 0
    logprobs: None = None


class Completion(msgspec.Struct, frozen=True):
    id: str
    model: str
    created: int
    choices: list[SaidChoice]
    usage: ChatUsage | None
    object: str = "chat.completion"


class Failure(msgspec.Struct, frozen=True):
    """OpenAI's envelope of an error."""

    error: ChatError


_answer = msgspec.json.Decoder(Answer)
_error = msgspec.json.Decoder(ErrorAnswer)


def chat_answer(message_body: bytes, created_s: int = 0) -> bytes:
    """Translate a whole answer; Messages do not say when one was made.

    An error that comes as an answer becomes OpenAI's. ``UpstreamNonsense`` where it is neither.
    """
    answer = understood(_answer, message_body)
    if answer.error is not None:
        return msgspec.json.encode(Failure(chat_error_of(answer.error)))
    if answer.type != "message":
        raise UpstreamNonsense("The upstream answered with something that is no message.")
    choice = SaidChoice(_message(answer), finish_reason(answer.stop_reason))
    usage = ChatUsage.of(answer.usage)
    return msgspec.json.encode(Completion(answer.id, answer.model, created_s, [choice], usage))


def chat_error(status: int, body: bytes) -> bytes:
    """Translate the answer of a call that has failed; one without a reason gets one."""
    try:
        error = chat_error_of(_error.decode(body).error)
    except UNREADABLE:
        text = f"The upstream answered {status} without saying why."
        kind = "server_error" if status >= 500 else "invalid_request_error"
        error = ChatError(text, kind, None, "upstream_failed")
    return msgspec.json.encode(Failure(error))


def chat_error_of(error: Error) -> ChatError:
    return ChatError(error.message, ERROR_TYPES.get(error.type, "server_error"), None, error.type)


def finish_reason(stop_reason: str | None) -> str:
    return FINISH_REASONS.get(stop_reason or "", "stop")


def signed(block: AnswerBlock, index: int) -> ReasoningDetail | None:
    """A thought in the form in which it may be handed back, if the server has vouched for it."""
    if block.type == "thinking" and block.signature:
        return ReasoningDetail(
            "reasoning.text", block.thinking, block.signature, None, THOUGHT_FORMAT, index
        )
    if block.type == "redacted_thinking" and block.data:
        return ReasoningDetail(
            "reasoning.encrypted", data=block.data, format=THOUGHT_FORMAT, index=index
        )
    return None


def _message(answer: Answer) -> SaidMessage:
    blocks = answer.content
    text = "".join(block.text or "" for block in blocks if block.type == "text")
    thoughts = "".join(block.thinking or "" for block in blocks if block.type == "thinking")
    found = (signed(block, index) for index, block in enumerate(blocks))
    refused = answer.stop_details.explanation if answer.stop_details else None
    return SaidMessage(
        "assistant",
        text or None,
        refusal=refused,
        reasoning_content=thoughts or None,
        reasoning_details=[detail for detail in found if detail is not None] or None,
        tool_calls=[_tool_call(block) for block in blocks if block.type == "tool_use"] or None,
    )


def _tool_call(block: AnswerBlock) -> ToolCall:
    if not block.id or not block.name:
        raise UpstreamNonsense("The upstream calls a tool without naming it.")
    arguments = bytes(block.input).decode(errors="replace") if is_given(block.input) else "{}"
    return ToolCall(block.id, CalledFunction(block.name, arguments))
