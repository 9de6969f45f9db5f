"""Executions as their owners see them: found, waited for, listed, followed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

import msgspec

from app.kernel.db import Database
from app.kernel.errors import NotFound
from app.modules.runs.api import Event, Run, RunLog, Runs
from app.modules.sandbox.domain.executions import FINAL, Execution, Outcome, Question, status_of
from app.modules.sandbox.models.executions import ExecutionRow
from app.modules.sandbox.repository.executions import ExecutionRepository
from app.modules.sandbox.service.live import Live
from app.modules.sandbox.service.shelf import Shelf


class NoSuchExecution(NotFound):
    """There is no such execution, or it is somebody else's."""

    title = "No such execution"


class Views:
    """Reads; ``live`` are the executions of this process, of which nothing need be asked."""

    def __init__(self, db: Database, runs: Runs, run_log: RunLog, live: Live, shelf: Shelf) -> None:
        self._db = db
        self._runs = runs
        self._log = run_log
        self._live = live
        self._shelf = shelf

    async def find(self, user_id: UUID, run_id: UUID) -> Execution:
        live = self._live.find(run_id)
        if live is not None and live.user_id == user_id:
            return live.seen()
        async with self._db.read() as session:
            row = await ExecutionRepository(session).owned(user_id, run_id)
            if row is None:
                raise NoSuchExecution(f"There is no execution {run_id}.")
            run = (await self._runs.find(session, [run_id]))[run_id]
        return _execution(row, run)

    async def ended(self, user_id: UUID, run_id: UUID) -> Execution:
        """Find it when what it left is there too: its run has ended."""
        if (live := self._live.find(run_id)) is not None:
            await live.until_final()
        return await self.find(user_id, run_id)

    async def wait(self, user_id: UUID, run_id: UUID, *, within_s: float) -> Execution:
        """Find it when it has ended or asks, or as it is when the time is over."""
        execution = await self.find(user_id, run_id)
        # Not wait_for: up to Python 3.11 it can lose a cancellation.
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                live = self._live.find(run_id)
                if live is not None:
                    await live.until_waiting_or_final()
                elif execution.status not in FINAL:
                    await self._until_moved(user_id, run_id)
        return await self.find(user_id, run_id)

    async def page(
        self, user_id: UUID, project: str | None, before: UUID | None, limit: int
    ) -> list[Execution]:
        """Newest first, without what they left."""
        async with self._db.read() as session:
            rows = await ExecutionRepository(session).page(user_id, project, before, limit)
            runs = await self._runs.find(session, [row[0] for row in rows])
        return [
            Execution(
                run_id,
                name,
                status_of(runs[run_id].status, is_queued=is_queued),
                created_at,
                completed_at=completed_at or runs[run_id].ended_at,
                error=_error(runs[run_id], None),
            )
            for run_id, name, is_queued, created_at, completed_at in rows
        ]

    async def artifact(self, user_id: UUID, run_id: UUID, name: str) -> AsyncIterator[bytes]:
        execution = await self.find(user_id, run_id)
        artifacts = execution.outcome.artifacts if execution.outcome else ()
        return self._shelf.read(run_id, artifacts, name)

    def follow(self, user_id: UUID, run_id: UUID) -> AsyncIterator[Event]:
        """The events of its run from the first one on, until it has ended."""
        return self._log.follow(user_id, run_id, after_seq=0)

    async def forget(self, run_id: str) -> None:
        """Its run is forgotten: so are the files it left."""
        self._live.forget(UUID(run_id))
        await self._shelf.forget(UUID(run_id))

    async def _until_moved(self, user_id: UUID, run_id: UUID) -> None:
        """Follow an execution of another process until it ends or asks."""
        async for event in self._log.follow(user_id, run_id, after_seq=0):
            execution = None
            if event.name == "status":
                execution = await self.find(user_id, run_id)
            if execution and (execution.status in FINAL or execution.status == "awaiting_llm"):
                return


def _execution(row: ExecutionRow, run: Run) -> Execution:
    status = status_of(run.status, is_queued=row.is_queued)
    is_final = status in FINAL
    outcome = None
    if row.outcome is not None and is_final:
        outcome = msgspec.json.decode(row.outcome, type=Outcome)
    asks = row.question is not None and run.question_seq is not None
    return Execution(
        id=row.id,
        project=row.project,
        status=status,
        created_at=row.created_at,
        outcome=outcome,
        question=msgspec.json.decode(row.question, type=Question)
        if asks and row.question
        else None,
        request_id=str(run.question_seq) if asks else None,
        completed_at=row.completed_at or run.ended_at,
        error=_error(run, outcome),
    )


def _error(run: Run, outcome: Outcome | None) -> str | None:
    if run.status == "cancelled":
        return "The execution was cancelled."
    if outcome is not None and outcome.error is not None:
        return outcome.error
    return run.error or None
