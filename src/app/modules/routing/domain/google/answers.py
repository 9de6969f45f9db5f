"""What the Gemini API answers, as a chat completion."""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.google.chat import (
    CalledFunction,
    ChatError,
    ChatLogprobs,
    ChatUsage,
    Choice,
    Completion,
    CompletionDetails,
    ErrorAnswer,
    ExtraContent,
    GoogleExtra,
    Image,
    ImageUrl,
    PromptDetails,
    Said,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from app.modules.routing.domain.google.wire import (
    Candidate,
    Failure,
    FailureDetail,
    FunctionCall,
    GenerateAnswer,
    Logprobs,
    ModalityTokens,
    Part,
    PromptFeedback,
    Usage,
)
from app.modules.routing.domain.messages.reading import UNREADABLE, understood

# The rest (SAFETY, RECITATION, BLOCKLIST, PROHIBITED_CONTENT, SPII, LANGUAGE, OTHER, and words yet
# to come) say that the model was made to stop.
FINISHES: Final = {"STOP": "stop", "MAX_TOKENS": "length"}
STOPPED: Final = "content_filter"
# What the model has written is of no use; OpenAI's format has no word for it but an error.
FAILURES: Final = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    }
)
BAD_KEY_REASONS: Final = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED"})
ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
ERROR_CODES: Final = {
    401: "invalid_api_key",
    404: "model_not_found",
    429: "rate_limit_exceeded",
}
MESSAGE_LIMIT_CHARS: Final = 2_000
# Google names the key itself in some of its refusals.
KEY: Final = re.compile(r"AIza[\w-]+|(?<=api_key:)[\w.-]+")
WAIT: Final = re.compile(r"(\d{1,9})(?:\.(\d+))?s")

_answer = msgspec.json.Decoder(GenerateAnswer)


class _Failed(msgspec.Struct, frozen=True):
    error: Failure


_failed = msgspec.json.Decoder(_Failed | list[_Failed])


class Told(msgspec.Struct, frozen=True):
    """What a caller is answered. ``retry_after`` is in whole seconds, "" where nothing is said."""

    status: int
    body: bytes
    retry_after: str = ""


class Trouble(NamedTuple):
    """Why an answer is none; ``word`` is for programs."""

    status: int
    word: str
    message: str


def chat_answer(body: bytes, model: str, created_s: int = 0) -> Told:
    """Translate a whole answer; ``UpstreamNonsense`` if it is none.

    Status 400 when the prompt was blocked, 502 when the model failed; usage is told then, too.
    """
    answer = read_generated(body)
    usage = chat_usage(answer.usage_metadata)
    trouble = trouble_of(answer)
    if trouble is None and not answer.candidates:
        trouble = Trouble(502, "empty_answer", "The model answered nothing.")
    if trouble is not None:
        error = ChatError(trouble.message, _type_of(trouble.status), trouble.word)
        return Told(trouble.status, msgspec.json.encode(ErrorAnswer(error, usage)))
    answer_id = id_of(answer, body)
    choices = [_choice(candidate, answer_id) for candidate in answer.candidates or ()]
    completion = Completion(
        f"chatcmpl-{answer_id}", "chat.completion", created_s, model, choices, usage
    )
    return Told(200, msgspec.json.encode(completion))


def chat_error(status: int, body: bytes) -> Told:
    """Translate an error; a key that is refused is 401, which Google says with 400."""
    failure = Failure(message=f"The server answered {status}.")
    try:
        found = _failed.decode(body)
    except UNREADABLE:
        found = []
    if isinstance(found, _Failed):
        failure = found.error
    elif found:
        failure = found[0].error
    details = failure.details or []
    if status == 400 and any(detail.reason in BAD_KEY_REASONS for detail in details):
        status = 401
    code = ERROR_CODES.get(status) or failure.status.lower() or "upstream_error"
    error = ChatError(_clean(failure.message), _type_of(status), code)
    return Told(status, msgspec.json.encode(ErrorAnswer(error)), _retry_after(details))


def read_generated(body: bytes) -> GenerateAnswer:
    """Decode an answer, or an event of a stream."""
    return understood(_answer, body)


def trouble_of(answer: GenerateAnswer) -> Trouble | None:
    """Why there is nothing to hand on, if so."""
    failure = answer.error
    if failure is not None:
        status = failure.code if 400 <= failure.code < 600 else 502
        return Trouble(status, _type_of(status), _clean(failure.message))
    feedback = answer.prompt_feedback or PromptFeedback()
    if feedback.block_reason and not answer.candidates:
        said = feedback.block_reason_message or f"The prompt was blocked: {feedback.block_reason}."
        return Trouble(400, STOPPED, _clean(said))
    for candidate in answer.candidates or ():
        if candidate.finish_reason in FAILURES:
            said = candidate.finish_message or f"The model failed: {candidate.finish_reason}."
            return Trouble(502, candidate.finish_reason.lower(), _clean(said))
    return None


def id_of(answer: GenerateAnswer, body: bytes) -> str:
    """A name for an answer: Google's own, shortened to what every server takes, or of its text."""
    given = answer.response_id.encode() if answer.response_id else body
    return blake2b(given, digest_size=8).hexdigest()


def chat_usage(usage: Usage | None) -> ChatUsage | UnsetType:
    """Count as OpenAI does; nothing where nothing is told, since that is not 0.

    Thoughts are output. What is both cached and audio counts as cached, so that no token is
    priced twice.
    """
    if usage is None or usage.prompt_token_count is None:
        return UNSET
    prompt = usage.prompt_token_count + usage.tool_use_prompt_token_count
    completion = usage.candidates_token_count + usage.thoughts_token_count
    heard = _audio(usage.prompt_tokens_details) - _audio(usage.cache_tokens_details)
    return ChatUsage(
        prompt,
        completion,
        prompt + completion,
        PromptDetails(usage.cached_content_token_count, max(0, heard)),
        CompletionDetails(usage.thoughts_token_count, _audio(usage.candidates_tokens_details)),
    )


def finish_of(candidate: Candidate, *, has_calls: bool) -> str | None:
    """OpenAI's word for why the model stopped; ``None`` while it has not."""
    reason = candidate.finish_reason
    if not reason or reason == "FINISH_REASON_UNSPECIFIED":
        return None
    if reason == "STOP" and has_calls:
        return "tool_calls"
    return FINISHES.get(reason, STOPPED)


def said_in(parts: Sequence[Part], calls: Iterable[ToolCall]) -> Said:
    """What parts of a turn say, with the calls that are among them."""
    texts = [part.text for part in parts if part.text and not part.thought]
    thoughts = [part.text for part in parts if part.text and part.thought]
    blobs = [part.inline_data for part in parts if part.inline_data and not part.thought]
    images = [Image(ImageUrl(f"data:{blob.mime_type};base64,{blob.data}")) for blob in blobs]
    signed = [p.thought_signature for p in parts if p.thought_signature and not p.function_call]
    return Said(
        content="".join(texts) if texts else UNSET,
        reasoning_content="".join(thoughts) if thoughts else UNSET,
        tool_calls=list(calls) or UNSET,
        images=images or UNSET,
        extra_content=_extra(signed[-1]) if signed else UNSET,
    )


def tool_call(part: Part, call_id: str, index: int | UnsetType = UNSET) -> ToolCall:
    """The call that a part is. Gemini's own id is kept, since it wants to see it again."""
    call, signature = part.function_call or FunctionCall(), part.thought_signature
    return ToolCall(
        id=call.id or call_id,
        function=CalledFunction(call.name, _arguments(call.args)),
        index=index,
        extra_content=_extra(signature) if signature else UNSET,
    )


def chat_logprobs(found: Logprobs | None) -> ChatLogprobs | None:
    if found is None or not found.chosen_candidates:
        return None
    tops = [top.candidates or [] for top in found.top_candidates or ()]
    content = [
        TokenLogprob(
            chosen.token,
            chosen.log_probability,
            list(chosen.token.encode()),
            [
                TopLogprob(top.token, top.log_probability, list(top.token.encode()))
                for top in (tops[place] if place < len(tops) else ())
            ],
        )
        for place, chosen in enumerate(found.chosen_candidates)
    ]
    return ChatLogprobs(content)


def _choice(candidate: Candidate, answer_id: str) -> Choice:
    calling = [part for part in candidate.parts if part.function_call is not None]
    calls = [
        tool_call(part, f"call_{answer_id}_{candidate.index}_{place}")
        for place, part in enumerate(calling)
    ]
    said = said_in(candidate.parts, calls)
    content = None if said.content is UNSET else said.content
    message = msgspec.structs.replace(said, role="assistant", content=content, refusal=None)
    return Choice(
        index=candidate.index,
        message=message,
        logprobs=chat_logprobs(candidate.logprobs_result),
        finish_reason=finish_of(candidate, has_calls=bool(calls)) or "stop",
    )


def _type_of(status: int) -> str:
    default = "invalid_request_error" if 400 <= status < 500 else "server_error"
    return ERROR_TYPES.get(status, default)


def _clean(message: str) -> str:
    """A message without the key that Google puts into some, and of a bearable length."""
    return KEY.sub("...", message)[:MESSAGE_LIMIT_CHARS] or "The server gave no reason."


def _arguments(args: msgspec.Raw) -> str:
    """The arguments as OpenAI has them: JSON in a string, without Google's line breaks."""
    given = bytes(args)
    if given in {b"", b"null"}:
        return "{}"
    try:
        return msgspec.json.format(given, indent=-1).decode()
    except UNREADABLE:
        raise UpstreamNonsense("The model called a function with what is no JSON.") from None


def _extra(signature: str) -> ExtraContent:
    return ExtraContent(GoogleExtra(signature))


def _audio(details: list[ModalityTokens] | None) -> int:
    return sum(found.token_count for found in details or () if found.modality == "AUDIO")


def _retry_after(details: Sequence[FailureDetail]) -> str:
    """How long Google asks to wait, rounded up to seconds; it sends no header for it."""
    for detail in details:
        found = WAIT.fullmatch(detail.retry_delay or "")
        if found:
            return str(int(found[1]) + bool((found[2] or "").strip("0")))
    return ""
