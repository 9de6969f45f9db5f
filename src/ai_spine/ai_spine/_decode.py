"""From outcomes to values and errors."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Mapping, TypeVar

from ai_spine._call import Answer, Call, Fault, Outcome
from ai_spine._retry import retry_after_s
from ai_spine.exceptions import (
    AISpineError,
    APIError,
    AuthenticationError,
    ConflictError,
    InsufficientCreditsError,
    NetworkError,
    NotFoundError,
    RateLimitError,
    TimeoutError,
    ValidationError,
)

T = TypeVar("T")

MESSAGE_MAX_CHARS = 1_000
# Shorter ones are no keys, and would be found in every text.
KEY_MIN_CHARS = 8
CREDITS = "INSUFFICIENT_CREDITS"
_BY_STATUS = {
    400: ValidationError,
    401: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    422: ValidationError,
}


def decode(call: Call[T], outcome: Outcome, api_key: str, timeout_s: float) -> T:
    """What the call returns, or the error that it ended with."""
    if not isinstance(outcome, Answer):
        raise _fault_of(call, outcome, timeout_s)
    if outcome.status == 404 and call.if_missing is not None:
        return call.if_missing
    if not 200 <= outcome.status < 300:
        raise error_of(outcome, api_key)
    return call.returns(_json(outcome))


def _fault_of(call: Call[T], fault: Fault, timeout_s: float) -> AISpineError:
    where = f"{call.method} {call.path}"
    # Nobody knows: the caller has to look.
    doubt = "" if call.retry or not fault.is_sent else " It may have been done."
    if fault.is_late:
        text = f"{where}: no answer within {timeout_s:g} s ({fault.text}).{doubt}"
        return TimeoutError(text, timeout_s)
    return NetworkError(f"{where}: {fault.text}.{doubt}")


def error_of(answer: Answer, api_key: str) -> AISpineError:
    """The error that an answer stands for. The server's words, but never the key."""
    said = _said(answer, api_key)
    message, code = _message(answer.status, said), _text(said.get("error_code"))
    details = said.get("details")
    if not isinstance(details, dict):
        details = said
    request_id = answer.headers.get("x-request-id") or _text(said.get("request_id"))
    if answer.status == 429:
        return RateLimitError(
            message,
            retry_after_s(answer),
            details,
            error_code=code,
            request_id=request_id,
        )
    kind = _BY_STATUS.get(answer.status, APIError)
    if answer.status == 403 and _is_about_credits(message, code, details):
        kind = InsufficientCreditsError
    return kind(
        message,
        details,
        status_code=answer.status,
        error_code=code,
        request_id=request_id,
    )


def _is_about_credits(
    message: str, code: str | None, details: Mapping[str, Any]
) -> bool:
    codes = f"{code} {details.get('error_code')}".upper()
    return CREDITS in codes or "credits" in message.lower()


def _json(answer: Answer) -> Any:
    if not answer.content:
        return None
    try:
        return json.loads(answer.content.decode("utf-8"))
    except (ValueError, RecursionError):
        text = "The answer is no JSON. Check base_url."
        raise APIError(text, status_code=answer.status) from None


def _said(answer: Answer, api_key: str) -> Mapping[str, Any]:
    text = answer.content.decode("utf-8", "replace")
    if len(api_key) >= KEY_MIN_CHARS:
        text = text.replace(api_key, "[key]")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _message(status: int, said: Mapping[str, Any]) -> str:
    """What the server said, in the words of whichever server it is."""
    for name in ("message", "detail", "error"):
        value = said.get(name)
        if isinstance(value, dict):
            value = value.get("message")
        if value and isinstance(value, str):
            return value[:MESSAGE_MAX_CHARS]
    if 300 <= status < 400:
        return f"HTTP {status}: redirects are not followed. Check base_url."
    return f"HTTP {status} {_phrase(status)}".rstrip()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
