"""What a call begins with and what comes of it: the plan, the reply, the books."""

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

import msgspec

from app.modules.billing.api import Usage
from app.modules.routing.ports import Route, Target
from app.modules.routing.service.dialects import Dialect


class Reply(msgspec.Struct):
    """What the caller gets: ``body``, or the pieces of an event stream."""

    status: int
    content_type: str
    body: bytes = b""
    pieces: AsyncIterator[bytes] | None = None
    retry_after: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """Where a call may go, the best first, and what it is translated by where that is needed.

    ``translates_all``: also where the upstream has the surface itself.
    """

    route: Route
    targets: tuple[Target, ...]
    dialect: Dialect | None = None
    affinity: str = ""
    translates_all: bool = False


class Failure(NamedTuple):
    """An exception as callers are told of it."""

    status: int
    code: str
    text: str


class Books(Protocol):
    """Where calls end up."""

    def keep(self, usage: Usage) -> None:
        """Write the usage row; it is safe when this returns."""
        ...

    def describe(self, error: Exception) -> Failure: ...
