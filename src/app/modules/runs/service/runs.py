"""The verbs of runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database, after_commit
from app.kernel.errors import Conflict, Unavailable
from app.kernel.jobs import emit
from app.modules.runs.api import Kind, News, NoSuchRun, NotAwaiting, Run, Wish
from app.modules.runs.domain import FINAL, Event, Search, Status
from app.modules.runs.models import RunRow
from app.modules.runs.repository import RunRepository, may_end
from app.modules.runs.service.news import RunNews
from app.modules.runs.service.runner import Runner
from app.modules.runs.service.turns import run_of

ANSWERED: Final = "answered"
LOOK_EVERY_S: Final = 1.0
SWEEP_AT_ONCE: Final = 500


class KeyReused(Conflict):
    """An idempotency key belongs to one request and its repetitions."""

    title = "Idempotency key reused"


class RunService:
    """Implements ``api.Runs`` and ``api.RunLog``."""

    def __init__(
        self, db: Database, clock: Callable[[], datetime], runner: Runner, news: RunNews
    ) -> None:
        self._db = db
        self._clock = clock
        self._runner = runner
        self._news = news
        self._may_be_answered = asyncio.Event()
        news.observe(self._moved)

    def offer(self, kind: Kind) -> None:
        self._runner.offer(kind)

    async def start(self, session: AsyncSession, wish: Wish) -> tuple[Run, bool]:
        repository = RunRepository(session, self._clock())
        if wish.idempotency_key is not None and (twin := await repository.find_twin(wish)):
            return _same(twin, wish), False
        until = self._runner.lease_for(wish.kind)
        run = await repository.add(wish, self._runner.worker if until else "", until)
        if run is None:
            twin = await repository.find_twin(wish)
            assert twin is not None  # noqa: S101 - it is the reason why there is no new one
            return _same(twin, wish), False
        after_commit(session, partial(self._runner.begin, run) if until else self._runner.look)
        after_commit(session, partial(self._news.tell, run.id, run.status))
        return run, True

    async def find(self, session: AsyncSession, ids: Iterable[UUID]) -> dict[UUID, Run]:
        rows = await RunRepository(session, self._clock()).find(list(ids))
        return {row.id: run_of(row) for row in rows}

    async def answer(
        self, session: AsyncSession, run_id: UUID, question_seq: int, answer: dict[str, Any]
    ) -> None:
        repository = RunRepository(session, self._clock())
        said = News(ANSWERED, {"question_seq": question_seq, "answer": answer})
        row = await repository.go_on(run_id, question_seq, [said])
        if row is None:
            raise NotAwaiting("This question is not waiting for an answer.")
        after_commit(session, partial(self._runner.hear, run_id, question_seq, answer))
        after_commit(session, partial(self._news.tell, run_id, row.status))

    async def cancel(self, user_id: UUID, run_id: UUID) -> Run:
        async with self._db.begin(is_durable=True) as session:
            repository = RunRepository(session, self._clock())
            row = await repository.owned(user_id, run_id)
            if row is None:
                raise NoSuchRun(f"There is no run {run_id}.")
            ended = await repository.end(may_end(run_id), "cancelled", [], "", "")
        if ended is None:
            return run_of(row)
        self._runner.stop(run_id)
        self._news.tell(run_id, ended.status)
        return run_of(ended)

    async def get(self, user_id: UUID, run_id: UUID) -> Run:
        async with self._db.read() as session:
            row = await RunRepository(session, self._clock()).owned(user_id, run_id)
        if row is None:
            raise NoSuchRun(f"There is no run {run_id}.")
        return run_of(row)

    async def page(self, search: Search) -> list[Run]:
        async with self._db.read() as session:
            rows = await RunRepository(session, self._clock()).page(search)
        return [run_of(row) for row in rows]

    async def tally(self, user_id: UUID, kind: str) -> dict[Status, int]:
        async with self._db.read() as session:
            return await RunRepository(session, self._clock()).tally(user_id, kind)

    async def follow(self, user_id: UUID, run_id: UUID, *, after_seq: int) -> AsyncIterator[Event]:
        with self._news.following(run_id) as moved:
            while True:
                moved.clear()
                run, events = await self._look(user_id, run_id, after_seq)
                for one in events:
                    yield one
                    after_seq = one.seq
                if after_seq < run.last_seq:
                    continue
                if run.status in FINAL:
                    return
                # Not wait_for: up to Python 3.11 it can lose a cancellation.
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await moved.wait()

    async def sweep(self, *, keep: timedelta, keep_count: int) -> None:
        """Forget runs that ended long ago, and tell whoever kept something of theirs."""
        ids = [UUID(int=0)]
        while ids:
            now = self._clock()
            async with self._db.begin() as session:
                repository = RunRepository(session, now)
                ids = await repository.drop_old(now - keep, keep_count, SWEEP_AT_ONCE)
                for run_id in ids:
                    emit(session, "runs.forgotten", run_id=str(run_id))

    async def hear(self) -> None:
        """Look, until cancelled, for answers that other processes have written down."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._may_be_answered.wait()
            self._may_be_answered.clear()
            with suppress(Unavailable):
                await self._hear_answers()

    async def _hear_answers(self) -> None:
        for run_id, questions in self._runner.waiting().items():
            async with self._db.read() as session:
                repository = RunRepository(session, self._clock())
                events = await repository.events(run_id, min(questions))
            for one in events:
                if one.name == ANSWERED:
                    self._runner.hear(run_id, one.data["question_seq"], one.data["answer"])

    def _moved(self, run_id: UUID, status: str) -> None:
        """A run has moved, here or elsewhere: it may be waiting, ended or answered."""
        if status in FINAL:
            self._runner.stop(run_id)
        elif status == "pending":
            self._runner.look()
        elif self._runner.asks(run_id):
            self._may_be_answered.set()

    async def _look(self, user_id: UUID, run_id: UUID, after_seq: int) -> tuple[Run, list[Event]]:
        """A run and a page of its log, in one snapshot."""
        async with self._db.read() as session:
            repository = RunRepository(session, self._clock())
            row = await repository.owned(user_id, run_id)
            if row is None:
                raise NoSuchRun(f"There is no run {run_id}.")
            return run_of(row), await repository.events(run_id, after_seq)


def _same(twin: RunRow, wish: Wish) -> Run:
    if twin.digest != wish.digest:
        text = "This Idempotency-Key was used with another request; choose a new one."
        raise KeyReused(text, run_id=str(twin.id))
    return run_of(twin)
