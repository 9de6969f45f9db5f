"""Runs for tests: the module as a process has it, and work that does what a test wants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from app.kernel.db import Database
from app.kernel.keys import Keyring
from app.kernel.ports import Cache, utc_now
from app.modules.auth.models import UserRow
from app.modules.runs.api import Ended, Event, Kind, News, Run, Turn, Wish
from app.modules.runs.domain import FINAL
from app.modules.runs.module import RunsModule
from app.modules.runs.settings import RunSettings
from tests.modules.auth.people import SECRET, make_kit
from tests.waiting import until

ANNA = UUID(int=1)
BERT = UUID(int=2)


class Gate:
    """Work that begins, waits to be let go on, and notes what became of it."""

    def __init__(self, ended: Ended = Ended(), error: Exception | None = None) -> None:  # noqa: B008
        self.begun = 0
        self.cancelled = 0
        self.may_end = asyncio.Event()
        self.ended = ended
        self.error = error

    async def work(self, turn: Turn) -> Ended:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.ended


async def at_once(turn: Turn) -> Ended:
    await turn.say(News("output", {"text": "hello"}))
    return Ended(news=(News("result", {"value": 42}),))


async def people(db: Database) -> None:
    """The users that runs belong to."""
    async with db.begin() as session:
        for number, user_id in enumerate((ANNA, BERT)):
            user = UserRow(
                id=user_id,
                email=f"{number}@example.org",
                role="member",
                credential_kind="password",
                credential_hash=None,
                kdf_salt="salt",
            )
            session.add(user)


@asynccontextmanager
async def opened(
    db: Database, cache: Cache, *kinds: Kind, clock: Any = utc_now, **settings: Any
) -> AsyncIterator[RunsModule]:
    """The module as one process has it."""
    module = RunsModule(RunSettings(**settings), make_kit(db, cache, Keyring([SECRET]), clock))
    for kind in kinds:
        module.runs.offer(kind)
    await module.open()
    try:
        yield module
    finally:
        await module.close()


async def started(module: RunsModule, db: Database, kind: str = "test", **wish: Any) -> Run:
    async with db.begin() as session:
        run, _ = await module.runs.start(session, Wish(**{"user_id": ANNA, "kind": kind} | wish))
    return run


async def ended(module: RunsModule, run: Run) -> Run:
    """The run, once it has ended."""

    async def found() -> Run | None:
        now = await module.runs.get(run.user_id, run.id)
        return now if now.status in FINAL else None

    return await until(found)


async def is_in(module: RunsModule, run: Run, status: str) -> Run:
    async def found() -> Run | None:
        now = await module.runs.get(run.user_id, run.id)
        return now if now.status == status else None

    return await until(found)


async def log(module: RunsModule, run: Run, after_seq: int = 0) -> list[Event]:
    """Every event of a run that ends."""
    return [e async for e in module.runs.follow(run.user_id, run.id, after_seq=after_seq)]


def story(events: list[Event]) -> list[str]:
    """What happened, in words: states by their names, everything else by the event's."""
    return [e.data["status"] if e.name == "status" else e.name for e in events]
