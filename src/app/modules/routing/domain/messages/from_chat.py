"""What a server that speaks chat completions has answered, as the Messages API has it."""

from typing import Final

import msgspec

from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.messages.chat import (
    AnswerMessage,
    ChatAnswer,
    ChatError,
    ChatUsage,
    ToolCall,
)
from app.modules.routing.domain.messages.reading import UNREADABLE, understood
from app.modules.routing.domain.messages.usage import MessageUsage
from app.modules.routing.domain.messages.wire import AnswerBlock, Error, ErrorAnswer

STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
SHARED_ERROR_TYPES: Final = frozenset(ERROR_TYPES.values())
# The form in which Anthropic wants the arguments of a call that the model got wrong.
INVALID_JSON: Final = "INVALID_JSON"


class SaidMessage(msgspec.Struct, frozen=True):
    """A whole answer. ``stop_sequence`` is known where the server tells which one it met."""

    id: str
    model: str
    content: list[AnswerBlock]
    stop_reason: str
    stop_sequence: str | None
    usage: MessageUsage
    type: str = "message"
    role: str = "assistant"


_answer = msgspec.json.Decoder(ChatAnswer)
_arguments = msgspec.json.Decoder(dict[str, msgspec.Raw])


def message_answer(chat_body: bytes, model: str) -> bytes:
    """Translate a whole answer. Tokens that nobody has counted are 0: the shape has no "unknown".

    An error that comes as an answer becomes Anthropic's. ``UpstreamNonsense`` where it is neither.
    """
    answer = understood(_answer, chat_body)
    if answer.error is not None:
        return msgspec.json.encode(
            ErrorAnswer(error_of(answer.error), request_id=answer.request_id)
        )
    if not answer.choices:
        raise UpstreamNonsense("The upstream answered with no choice.")
    choice = answer.choices[0]
    usage = (answer.usage or ChatUsage()).as_messages()
    reason, sequence = stop_reason(
        choice.finish_reason, choice.stop_reason, calls_tools=bool(choice.message.tool_calls)
    )
    content = _content(choice.message)
    return msgspec.json.encode(SaidMessage(answer.id, model, content, reason, sequence, usage))


def message_error(status: int, openai_error_body: bytes) -> bytes:
    """Translate the answer of a call that has failed; its type follows from its status."""
    kind = error_type(status)
    try:
        answer = _answer.decode(openai_error_body)
    except UNREADABLE:
        answer = ChatAnswer()
    text = _text(answer.error) or f"The upstream answered {status} without saying why."
    return msgspec.json.encode(ErrorAnswer(Error(kind, text), request_id=answer.request_id))


def error_type(status: int) -> str:
    otherwise = "invalid_request_error" if 400 <= status < 500 else "api_error"
    return ERROR_TYPES.get(status, otherwise)


def error_of(error: ChatError | str) -> Error:
    """Translate an error that comes without a status of its own."""
    if isinstance(error, str):
        return Error("api_error", error)
    if isinstance(error.code, int):
        return Error(error_type(error.code), error.message)
    kind = error.type if error.type in SHARED_ERROR_TYPES else "api_error"
    return Error(kind or "api_error", error.message)


def stop_reason(
    finish_reason: str | None, stopped_at: str | int | None, *, calls_tools: bool
) -> tuple[str, str | None]:
    """Return ``stop_reason`` and ``stop_sequence``.

    Some servers say "stop" where they call a tool; a client would not run it.
    """
    reason = STOP_REASONS.get(finish_reason or "", "end_turn")
    if reason == "end_turn" and calls_tools:
        return "tool_use", None
    if reason == "end_turn" and isinstance(stopped_at, str):
        return "stop_sequence", stopped_at
    return reason, None


def _text(error: ChatError | str | None) -> str:
    return error.message if isinstance(error, ChatError) else error or ""


def _content(message: AnswerMessage) -> list[AnswerBlock]:
    """Thoughts have an empty signature: there is nobody to vouch for them."""
    thought = message.reasoning_content or message.reasoning
    blocks = [AnswerBlock("thinking", thinking=thought, signature="")] if thought else []
    said = (message.content or "") + (message.refusal or "")
    if said:
        blocks.append(AnswerBlock("text", text=said))
    return blocks + [_tool_use(call) for call in message.tool_calls or ()]


def _tool_use(call: ToolCall) -> AnswerBlock:
    if call.function is None:
        raise UpstreamNonsense("The upstream calls a tool that is no function.")
    arguments = call.function.arguments if call.function.arguments.strip() else "{}"
    try:
        _arguments.decode(arguments)
        given = msgspec.Raw(arguments.encode())
    except UNREADABLE:
        given = msgspec.Raw(msgspec.json.encode({INVALID_JSON: arguments}))
    return AnswerBlock("tool_use", id=call.id, name=call.function.name, input=given)
