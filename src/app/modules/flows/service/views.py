"""Executions as their owners see them: found, listed, followed, counted."""

from collections.abc import AsyncIterator, Mapping
from typing import Final
from uuid import UUID

import msgspec

from app.kernel.db import Database
from app.kernel.errors import NotFound
from app.modules.flows.domain.executions import (
    KIND,
    Execution,
    ExecutionStatus,
    Order,
    settled,
    status_of,
)
from app.modules.flows.domain.graph import inputs_of
from app.modules.flows.domain.views import Seen, Tally
from app.modules.flows.models.executions import ExecutionRow
from app.modules.flows.repository.executions import ExecutionRepository, state_of
from app.modules.flows.service.flows import Flows
from app.modules.runs.api import Event, Run, RunLog, Runs, Search, Status

STATUSES: Final[Mapping[ExecutionStatus, tuple[Status, ...]]] = {
    "pending": ("pending",),
    "running": ("running", "awaiting"),
    "completed": ("completed",),
    "failed": ("failed", "timed_out", "interrupted", "unknown"),
    "cancelled": ("cancelled",),
}


class NoSuchExecution(NotFound):
    """There is no such execution, or it is somebody else's."""

    title = "No such execution"


class Views:
    """Reads."""

    def __init__(self, db: Database, runs: Runs, run_log: RunLog, flows: Flows) -> None:
        self._db = db
        self._runs = runs
        self._log = run_log
        self._flows = flows

    async def see(self, user_id: UUID, execution_id: UUID) -> Seen:
        async with self._db.read() as session:
            repository = ExecutionRepository(session)
            row = await repository.owned(user_id, execution_id)
            if row is None:
                raise NoSuchExecution(f"There is no execution {execution_id}.")
            run = (await self._runs.find(session, [execution_id]))[execution_id]
            rows = await repository.nodes(execution_id)
        execution = _execution(row, run)
        states = [settled(state_of(one), execution.status) for one in rows]
        plan = await self._flows.load(execution.definitions)
        outputs = {
            state.path: msgspec.json.decode(state.output)
            for state in states
            if state.output is not None
        }
        return Seen(execution, states, inputs_of(plan, execution.order.input_data, outputs))

    async def page(
        self,
        user_id: UUID,
        flow_id: str | None,
        status: ExecutionStatus | None,
        limit: int,
        offset: int,
    ) -> list[Execution]:
        """Newest first."""
        search = Search(
            user_id,
            KIND,
            title=flow_id,
            statuses=STATUSES[status] if status else (),
            offset=offset,
            limit=limit,
        )
        runs = await self._log.page(search)
        async with self._db.read() as session:
            rows = await ExecutionRepository(session).find([run.id for run in runs])
        return [_execution(rows[run.id], run) for run in runs if run.id in rows]

    async def find(self, user_id: UUID, execution_id: UUID) -> Execution:
        async with self._db.read() as session:
            row = await ExecutionRepository(session).owned(user_id, execution_id)
            if row is None:
                raise NoSuchExecution(f"There is no execution {execution_id}.")
            run = (await self._runs.find(session, [execution_id]))[execution_id]
        return _execution(row, run)

    def follow(self, user_id: UUID, execution_id: UUID, *, after_seq: int) -> AsyncIterator[Event]:
        """The events of its run after this one, until it has ended."""
        return self._log.follow(user_id, execution_id, after_seq=after_seq)

    async def tally(self, user_id: UUID) -> Tally:
        """Of the executions that are kept."""
        counts = await self._log.tally(user_id, KIND)
        async with self._db.read() as session:
            total_s = await ExecutionRepository(session).seconds(user_id)
        last = await self._log.page(Search(user_id, KIND, limit=1))
        summed: dict[ExecutionStatus, int] = dict.fromkeys(STATUSES, 0)
        for status, count in counts.items():
            summed[status_of(status)] += count
        return Tally(summed, total_s, last[0].created_at if last else None)


def _execution(row: ExecutionRow, run: Run) -> Execution:
    status = status_of(run.status)
    error = run.error or None
    if status == "failed" and error is None:
        error = "The execution failed."
    return Execution(
        id=row.id,
        flow_id=row.flow_id,
        version=row.version,
        status=status,
        order=msgspec.json.decode(row.order, type=Order),
        created_at=row.created_at,
        updated_at=max(row.updated_at, run.ended_at or run.started_at or run.created_at),
        output=None if row.output is None else msgspec.json.decode(row.output),
        started_at=run.started_at,
        ended_at=run.ended_at,
        error_code=(run.error_code or run.status) if status == "failed" else None,
        error=error,
        definitions={path: UUID(text) for path, text in row.definitions.items()},
    )
