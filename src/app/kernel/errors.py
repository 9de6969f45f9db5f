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


class Gone(AppError):
    """It was there, and will not come back."""

    title = "Gone"


class LengthRequired(AppError):
    """The size must be said before the body."""

    title = "Length required"


class PreconditionFailed(AppError):
    """The thing has changed since the caller looked at it."""

    title = "Precondition failed"


class PreconditionRequired(AppError):
    """The request must say what it takes for granted."""

    title = "Precondition required"


class RangeUnsatisfiable(AppError):
    """None of the bytes asked for exist; ``size_bytes`` says how many there are."""

    title = "Range not satisfiable"

    def __init__(self, detail: str = "", *, size_bytes: int) -> None:
        super().__init__(detail, size_bytes=size_bytes)


class OutOfSpace(AppError):
    """There is no room for it."""

    title = "Out of space"


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
