"""The kinds of failure a caller can act on. No HTTP in here."""

from typing import Any, ClassVar


class AppError(Exception):
    """An expected failure. ``title`` is the class's, the detail is the instance's.

    Named extras become members of the problem document, except ``retry_after_s``,
    which becomes the header ``Retry-After`` in whole seconds, and ``should_retry=False``, which
    becomes ``X-Should-Retry``.
    """

    title: ClassVar[str] = "Unexpected error"

    def __init__(self, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.extra = extra


class Invalid(AppError):
    """The request cannot be understood."""

    title = "Invalid request"


class Unauthorized(AppError):
    """We do not know who is asking."""

    title = "Unauthorized"


class Forbidden(AppError):
    """We know who is asking, and it is not allowed."""

    title = "Forbidden"


class NotFound(AppError):
    """No such thing, or somebody else's."""

    title = "Not found"


class Conflict(AppError):
    """The thing is not in a state that allows this."""

    title = "Conflict"


class TooLarge(AppError):
    """More bytes than the limit."""

    title = "Too large"


class TooMany(AppError):
    """More often than the limit; ``retry_after_s`` says when to come back."""

    title = "Too many requests"

    def __init__(self, detail: str = "", *, retry_after_s: float = 1.0, **extra: Any) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **extra)


class NotBuilt(AppError):
    """The contract has this, and this installation cannot do it."""

    title = "Not implemented"


class BadUpstream(AppError):
    """A server that we asked on the caller's behalf failed or answered nonsense."""

    title = "Upstream failed"


class UpstreamTimeout(AppError):
    """A server that we asked on the caller's behalf did not answer in time."""

    title = "Upstream timed out"


class Unavailable(AppError):
    """Something we depend on is not answering; ``retry_after_s`` says when to try again."""

    title = "Temporarily unavailable"

    def __init__(self, detail: str = "", *, retry_after_s: float = 1.0, **extra: Any) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **extra)
