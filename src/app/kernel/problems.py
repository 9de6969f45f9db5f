"""The HTTP face of a failure: RFC 9457, or a module's own dialect, chosen by path."""

import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from app.kernel import errors, log

AnyRequest: TypeAlias = Request[Any, Any, Any]

STATUS: dict[type[errors.AppError], HTTPStatus] = {
    errors.Invalid: HTTPStatus.BAD_REQUEST,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.Gone: HTTPStatus.GONE,
    errors.LengthRequired: HTTPStatus.LENGTH_REQUIRED,
    errors.PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    errors.PreconditionRequired: HTTPStatus.PRECONDITION_REQUIRED,
    errors.RangeUnsatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    errors.OutOfSpace: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    errors.NotBuilt: HTTPStatus.NOT_IMPLEMENTED,
    errors.BadUpstream: HTTPStatus.BAD_GATEWAY,
    errors.UpstreamTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

_log = log.get("kernel")


class BodyMalformed(errors.Invalid):
    """The body is not JSON."""

    title = "Body malformed"


class JsonRequest(Request[Any, Any, Any]):
    """What msgspec says of bytes that are no text, or nested too deep, is not a bug of ours."""

    async def json(self) -> Any:
        try:
            return await super().json()
        except (UnicodeDecodeError, RecursionError):
            raise BodyMalformed("The body is not UTF-8, or nested too deep.") from None


class Problem(msgspec.Struct, frozen=True):
    """One failure, before it has a wire shape."""

    code: str
    title: str
    status: int
    detail: str
    request_id: str = ""
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}


class Wire(msgspec.Struct, frozen=True):
    """A failure in its wire shape: media type and body, ready to send."""

    body: bytes
    media_type: str


Renderer: TypeAlias = Callable[[Problem], Wire]


def problem_json(problem: Problem) -> Wire:
    """Render RFC 9457 problem details."""
    body = {
        **problem.extra,
        "type": f"urn:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "request_id": problem.request_id,
    }
    return Wire(msgspec.json.encode(body), "application/problem+json")


def of(error: Exception) -> Problem:
    """Describe any exception. What is neither ours nor HTTP's is a bug: 500 and no detail."""
    request_id = log.request_id.get()
    if isinstance(error, errors.AppError):
        status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        extra = {**error.extra}
        retry = extra.pop("retry_after_s", None)
        headers = {} if retry is None else {"retry-after": str(max(1, math.ceil(retry)))}
        if isinstance(error, errors.RangeUnsatisfiable):
            headers["content-range"] = f"bytes */{extra['size_bytes']}"
        if extra.get("should_retry") is False:
            # OpenAI's clients repeat every 429 unless they are told that it is useless.
            headers["x-should-retry"] = "false"
        if status is HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        code = slug(type(error).__name__)
        return Problem(code, error.title, status, str(error), request_id, headers, extra)
    if isinstance(error, HTTPException):
        title = HTTPStatus(error.status_code).phrase
        extra = {"errors": error.extra} if isinstance(error, ValidationException) else {}
        headers = dict(error.headers or {})
        status_code = error.status_code
        return Problem(slug(title), title, status_code, error.detail, request_id, headers, extra)
    _log.exception("kernel.unexpected-error", error)
    detail = "Something went wrong on our side. Quote the request id when you report it."
    return Problem("internal", "Internal error", 500, detail, request_id)


def renderer_for(path: str, dialects: Mapping[str, Renderer]) -> Renderer:
    """Find the dialect of a path, by its longest prefix."""
    fitting = [prefix for prefix in dialects if path.startswith(prefix)]
    return dialects[max(fitting, key=len)] if fitting else problem_json


def handlers(dialects: Mapping[str, Renderer]) -> ExceptionHandlersMap:
    """Exception handlers for Litestar; ``dialects`` maps a path prefix to another renderer."""

    def render(request: AnyRequest, error: Exception) -> Response[bytes]:
        problem = of(error)
        wire = renderer_for(request.scope["path"], dialects)(problem)
        return Response(
            wire.body,
            status_code=problem.status,
            media_type=wire.media_type,
            headers=problem.headers,
        )

    return {Exception: render, HTTPException: render, errors.AppError: render}


def slug(name: str) -> str:
    """``QuotaExceeded`` and ``Not Found`` both become kebab-case."""
    return re.sub(r"\s+|(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
