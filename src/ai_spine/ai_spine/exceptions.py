"""What can go wrong. Each error says what to do next; none carries a key."""

from __future__ import annotations

import builtins
from typing import Any, Mapping


class AISpineError(Exception):
    """Everything that this package raises on purpose.

    Attributes:
        message: What went wrong.
        details: What the server said besides, by name; empty when it said nothing.
        status_code: The HTTP status, ``None`` when there was no answer.
        error_code: The server's name of the error, such as ``FLOW_NOT_FOUND``.
        request_id: What to quote when you ask the operator of the server.
    """

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        status_code: int | None = None,
        error_code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})
        self.status_code = status_code
        self.error_code = error_code
        self.request_id = request_id


class AuthenticationError(AISpineError):
    """The key is missing, wrong or revoked (401)."""


class ValidationError(AISpineError):
    """An argument is wrong. Found before sending, or by the server (400)."""


class ExecutionError(AISpineError):
    """An execution ended as failed or cancelled; ``details`` is the execution."""

    def __init__(
        self,
        message: str,
        execution_id: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details)
        self.execution_id = execution_id


class TimeoutError(AISpineError, builtins.TimeoutError):
    """No answer, or no end of an execution, within ``timeout`` seconds.

    An execution that was waited for goes on: ask for it again by ``execution_id``.
    """

    def __init__(
        self,
        message: str,
        timeout: float | None = None,
        execution_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.execution_id = execution_id


class RateLimitError(AISpineError):
    """Too many requests (429), also after the retries.

    Ask again in ``retry_after`` seconds; ``None`` when the server did not say.
    """

    def __init__(
        self,
        message: str,
        retry_after: int | None = None,
        details: Mapping[str, Any] | None = None,
        *,
        error_code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(
            message,
            details,
            status_code=429,
            error_code=error_code,
            request_id=request_id,
        )
        self.retry_after = retry_after


class InsufficientCreditsError(AISpineError):
    """The account has no credits left (403)."""

    @property
    def credits_needed(self) -> int | None:
        """What the call costs, when the server said it."""
        return self.details.get("credits_needed")

    @property
    def credits_available(self) -> int | None:
        """What is left, when the server said it."""
        return self.details.get("credits_available")


class NetworkError(AISpineError):
    """The server was not reached, or the connection broke."""


class APIError(AISpineError):
    """The server refused, failed, or answered something that is no answer."""


class NotFoundError(APIError):
    """There is no such flow, execution or agent, or it is not yours (404)."""


class ConflictError(APIError):
    """The id is taken, or the execution is in another state (409)."""
