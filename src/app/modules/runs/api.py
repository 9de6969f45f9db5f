"""What other modules may see of runs.

A module offers a kind of run, which has a name and a function, and starts runs of it. What its
contract calls the states is said at its own edge.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.errors import Conflict, Invalid, NotFound
from app.modules.runs.domain import (
    EFFECT_BEGUN,
    EFFECT_DONE,
    Ending,
    Event,
    Recovery,
    Search,
    Status,
)

__all__ = [
    "EFFECT_BEGUN",
    "EFFECT_DONE",
    "KEEP_ALIVE",
    "CursorMalformed",
    "Ended",
    "Event",
    "Kind",
    "News",
    "NoSuchRun",
    "NotAwaiting",
    "Run",
    "RunLog",
    "RunLost",
    "Runs",
    "Search",
    "Status",
    "Turn",
    "Wish",
    "Write",
    "paced",
    "seq_of",
]

# What is said on a stream on which nothing happens: proxies cut those that are silent for long.
KEEP_ALIVE: Final = b": keep-alive\n\n"
KEEP_ALIVE_S: Final = 15.0
SEQ_LIMIT_DIGITS: Final = 18

Write: TypeAlias = Callable[[AsyncSession], Awaitable[None]]


class NoSuchRun(NotFound):
    """There is no such run, or it is somebody else's."""

    title = "No such run"


class CursorMalformed(Invalid):
    """A cursor is the ``next`` of a page of the same list, or the id of the last event."""

    title = "Cursor malformed"


class NotAwaiting(Conflict):
    """The run does not wait for this answer: it was given, it is too late, or none was asked."""

    title = "Not awaiting an answer"


class RunLost(Conflict):
    """The run was cancelled, or another process has taken it over: nothing more is written."""

    title = "Run lost"


class News(msgspec.Struct, frozen=True):
    """An event to be written: a name of at most 64 characters, and a JSON object."""

    name: str
    data: dict[str, Any] = {}


class Run(msgspec.Struct, frozen=True):
    """A run as it stands. ``question_seq`` is the event that it waits for an answer to."""

    id: UUID
    user_id: UUID
    kind: str
    title: str
    status: Status
    last_seq: int
    fence: int
    created_at: datetime
    question_seq: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error_code: str = ""
    error: str = ""


class Wish(msgspec.Struct, frozen=True):
    """A run to be started. ``digest`` tells wishes with the same ``idempotency_key`` apart."""

    user_id: UUID
    kind: str
    title: str = ""
    idempotency_key: str | None = None
    digest: str = ""


class Ended(msgspec.Struct, frozen=True):
    """How a run ended. ``write`` writes what belongs to it in the same transaction."""

    status: Ending = "completed"
    code: str = ""
    detail: str = ""
    news: tuple[News, ...] = ()
    write: Write | None = None


class Turn(Protocol):
    """A run in the hands of this process. Every verb raises ``RunLost`` when it no longer is."""

    @property
    def run(self) -> Run: ...

    async def say(self, *news: News, write: Write | None = None) -> int:
        """Write events, and what belongs to them, in one transaction; the last one's number."""
        ...

    async def ask(
        self, question: News, *, within_s: float, write: Write | None = None
    ) -> dict[str, Any]:
        """Wait for an answer from outside; ``TimeoutError`` when none came in time."""
        ...

    async def effect(
        self, key: str, act: Callable[[], Awaitable[Any]], *, is_idempotent: bool
    ) -> Any:
        """Do something outside of the house once, and return its result, also after a crash.

        The result is JSON. ``key`` names the effect within its run.
        """
        ...


Work: TypeAlias = Callable[[Turn], Coroutine[Any, Any, Ended]]


class Kind(msgspec.Struct, frozen=True):
    """A kind of run. ``work`` does one and says how it ended; cancelling it stops it.

    ``recovery``: whether another process may go on with a run whose process is gone. ``parallel``:
    how many of them one process has at once. ``is_durable``: what its runs write survives a power
    cut before anything is done because of it.
    """

    name: str
    work: Work
    recovery: Recovery = "interrupt"
    parallel: int = 32
    is_durable: bool = False


class Runs(Protocol):
    """The life cycle."""

    def offer(self, kind: Kind) -> None:
        """Have runs of this kind done in this process, from its start on."""
        ...

    async def start(self, session: AsyncSession, wish: Wish) -> tuple[Run, bool]:
        """Start a run if, and only if, the transaction commits; whether it is a new one."""
        ...

    async def find(self, session: AsyncSession, ids: Iterable[UUID]) -> dict[UUID, Run]:
        """The runs of these ids, whoever owns them: that is for the caller to know."""
        ...

    async def answer(
        self, session: AsyncSession, run_id: UUID, question_seq: int, answer: dict[str, Any]
    ) -> None:
        """Answer what a run asked; of all who do, one succeeds, the others are ``NotAwaiting``.

        Whether this user may answer is for the caller to know.
        """
        ...

    async def cancel(self, user_id: UUID, run_id: UUID) -> Run:
        """End a run and stop its work; one that has ended stays as it is."""
        ...


class RunLog(Protocol):
    """What happened in a run."""

    def follow(self, user_id: UUID, run_id: UUID, *, after_seq: int) -> AsyncIterator[Event]:
        """Every event after this one, those to come included, until the run has ended."""
        ...

    async def page(self, search: Search) -> list[Run]:
        """The runs that fit, newest first."""
        ...

    async def tally(self, user_id: UUID, kind: str) -> dict[Status, int]:
        """How many runs of this kind a user has, by how far they are; those with none left out."""
        ...


def seq_of(last_event_id: str | None) -> int:
    """Read ``Last-Event-ID``; without one, what is before the first event."""
    if not last_event_id:
        return 0
    if not last_event_id.isdigit() or len(last_event_id) > SEQ_LIMIT_DIGITS:
        raise CursorMalformed("Last-Event-ID is the id of an event of this very stream.")
    return int(last_event_id)


@asynccontextmanager
async def paced(
    events: AsyncIterator[Event], every_s: float = KEEP_ALIVE_S
) -> AsyncIterator[AsyncIterator[Event | None]]:
    """The events, and ``None`` whenever none has come for ``every_s``. The end closes both."""
    async with aclosing(_paced(events, every_s)) as told:
        yield told


async def _paced(events: AsyncIterator[Event], every_s: float) -> AsyncGenerator[Event | None]:
    coming: asyncio.Task[Event] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({coming}, timeout=every_s)
            if not done:
                yield None
                continue
            try:
                event, coming = coming.result(), None
            except StopAsyncIteration:
                return
            yield event
    finally:
        if coming is not None:
            coming.cancel()
        await asyncio.gather(*filter(None, [coming]), return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]  # a generator's
