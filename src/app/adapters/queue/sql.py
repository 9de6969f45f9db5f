"""The job runner: claims rows by one statement, under a lease, on SQLite and PostgreSQL alike.

A runner that dies keeps its lease until it expires; then the row is claimed again.
"""

import asyncio
import random
import secrets
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.jobs import DEAD, READY, RUNNING, Job, JobBook, JobRow, ScheduleRow
from app.kernel.ports import Clock, utc_now

POLL_EVERY_S = 1.0
MAX_PARALLEL = 4
MAX_BACK_OFF_S = 3600.0
FIRST_LEASE_S = 60.0
CATCH_UP_S = 60.0
ERROR_LIMIT_CHARS = 2000

_log = log.get("jobs")


class JobRunner:
    """Runs due jobs until closed. Every process may have one."""

    def __init__(self, db: Database, book: JobBook, clock: Clock = utc_now) -> None:
        self._db = db
        self._book = book
        self._clock = clock
        self._worker = secrets.token_hex(6)
        self._wake = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None
        self._is_open = False

    async def open(self) -> None:
        await self._plan()
        self._book.wake = self._wake.set
        self._is_open = True
        self._loop_task = asyncio.create_task(self._loop(), name="jobs")

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Stop claiming, give running jobs ``drain_s`` seconds, leave the rest to their leases."""
        self._is_open = False
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while tasks := self._unfinished():
                    await asyncio.wait(tasks)
        tasks = self._unfinished()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run_due(self) -> int:
        """Fire due ticks and run due jobs one after another; return how many ran."""
        await self._fire()
        count = 0
        while (row := await self._claim()) is not None:
            await self._run(row)
            count += 1
        return count

    async def _loop(self) -> None:
        while self._is_open:
            try:
                await self._fire()
                while self._may_claim() and (row := await self._claim()):
                    self._start(self._run(row))
            except Unavailable:
                _log.warning("jobs.database-unavailable")
            except Exception as error:  # noqa: BLE001 - the loop must survive one bad row
                _log.exception("jobs.loop-failed", error)
            # Not wait_for: up to Python 3.11 it can lose a cancellation, and close would hang.
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()

    def _may_claim(self) -> bool:
        return self._is_open and len(self._running) < MAX_PARALLEL

    def _unfinished(self) -> set[asyncio.Task[None]]:
        tasks = {*self._running, self._loop_task}
        return {task for task in tasks if task is not None and not task.done()}

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.exception("jobs.not-settled", error)

    async def _plan(self) -> None:
        """Write the schedules that the modules declare; keep the next tick of unchanged ones."""
        wanted = self._book.schedules
        async with self._db.begin() as session:
            gone = ScheduleRow.name.not_in(list(wanted))
            await session.execute(delete(ScheduleRow).where(gone))
        for name, cron in wanted.items():
            # Another process that starts now may be first; it wrote the same.
            with suppress(IntegrityError):
                await self._plan_one(name, cron)

    async def _plan_one(self, name: str, cron: str) -> None:
        next_at = _next(cron, self._clock())
        async with self._db.begin() as session:
            mine = ScheduleRow.name == name
            known = (await session.scalars(select(ScheduleRow.cron).where(mine))).one_or_none()
            if known is None:
                session.add(ScheduleRow(name=name, cron=cron, next_at=next_at))
            elif known != cron:
                change = update(ScheduleRow).where(mine).values(cron=cron, next_at=next_at)
                await session.execute(change)

    async def _fire(self) -> None:
        """Turn each due tick into one job. No tick is missed but those of an outage, made up once.

        The loop ends: each turn moves every due schedule on, and none is older than the limit.
        """
        now = self._clock()
        due = select(ScheduleRow).where(ScheduleRow.next_at <= now)
        while True:
            async with self._db.read() as session:
                schedules = list(await session.scalars(due))
            if not schedules:
                return
            for schedule in schedules:
                with suppress(IntegrityError):
                    await self._fire_one(schedule, now)

    async def _fire_one(self, schedule: ScheduleRow, now: datetime) -> None:
        async with self._db.begin() as session:
            if await self._advance(session, schedule, now):
                tick = f"{schedule.name}@{schedule.next_at.isoformat()}"
                session.add(JobRow(name=schedule.name, args={}, due_at=now, tick=tick))

    async def _advance(self, session: AsyncSession, schedule: ScheduleRow, now: datetime) -> bool:
        """Move to the next tick by compare-and-set: of all the processes, one succeeds."""
        oldest = now - timedelta(seconds=CATCH_UP_S)
        next_at = _next(schedule.cron, max(schedule.next_at, oldest))
        same = and_(ScheduleRow.id == schedule.id, ScheduleRow.next_at == schedule.next_at)
        statement = update(ScheduleRow).where(same).values(next_at=next_at)
        return (await session.scalars(statement.returning(ScheduleRow.id))).first() is not None

    async def _claim(self) -> JobRow | None:
        now = self._clock()
        due = or_(
            and_(JobRow.state == READY, JobRow.due_at <= now),
            and_(JobRow.state == RUNNING, JobRow.lease_until < now),
        )
        async with self._db.read() as session:
            if (await session.scalars(select(JobRow.id).where(due).limit(1))).first() is None:
                return None
        first = select(JobRow.id).where(due).order_by(JobRow.due_at).limit(1)
        values = {
            "state": RUNNING,
            "worker": self._worker,
            "attempts": JobRow.attempts + 1,
            "lease_until": now + timedelta(seconds=FIRST_LEASE_S),
        }
        async with self._db.begin() as session:
            chosen = first.with_for_update(skip_locked=True).scalar_subquery()
            statement = update(JobRow).where(JobRow.id == chosen).values(values)
            found = await session.scalars(
                statement.returning(JobRow).execution_options(synchronize_session=False)
            )
            return found.one_or_none()

    async def _run(self, row: JobRow) -> None:
        job = self._book.jobs.get(row.name)
        if job is None:
            await self._settle(row, "no enabled module has this job")
            return
        if row.attempts > job.max_attempts:
            await self._settle(row, "its process died each time it ran")
            return
        lease = asyncio.create_task(self._keep_lease(row, job))
        error: str | None = None
        try:
            await job.run(**row.args)
        except Exception as failure:  # noqa: BLE001 - whatever a job raises becomes its row's error
            _log.exception("jobs.job-failed", failure, job=row.name, attempts=row.attempts)
            error = f"{type(failure).__name__}: {failure}"
        finally:
            lease.cancel()
            await asyncio.wait({lease})
        await self._settle(row, error, job)

    async def _keep_lease(self, row: JobRow, job: Job) -> None:
        """Renew the lease at a third of its length, for as long as the job runs."""
        while True:
            until = self._clock() + timedelta(seconds=job.lease_s)
            with suppress(Unavailable):
                async with self._db.begin() as session:
                    await session.execute(
                        update(JobRow).where(self._mine(row)).values(lease_until=until)
                    )
            await asyncio.sleep(job.lease_s / 3)

    async def _settle(self, row: JobRow, error: str | None, job: Job | None = None) -> None:
        """Delete the row of a finished job; plan the next attempt of a failed one, or bury it."""
        async with self._db.begin() as session:
            if error is None:
                await session.execute(delete(JobRow).where(self._mine(row)))
                return
            again = job is not None and row.attempts < job.max_attempts
            values = {
                "state": READY if again else DEAD,
                "due_at": self._clock() + back_off(row.attempts),
                "error": error[:ERROR_LIMIT_CHARS],
                "lease_until": None,
                "worker": None,
            }
            await session.execute(update(JobRow).where(self._mine(row)).values(values))

    def _mine(self, row: JobRow) -> ColumnElement[bool]:
        """Match the row only while this very claim of it holds."""
        same = and_(JobRow.id == row.id, JobRow.attempts == row.attempts)
        return and_(same, JobRow.worker == self._worker, JobRow.state == RUNNING)


def back_off(attempts: int) -> timedelta:
    """Wait 2, 4, 8 ... seconds up to an hour, each shortened by up to a quarter at random."""
    seconds = min(MAX_BACK_OFF_S, 2.0**attempts)
    return timedelta(seconds=seconds * random.uniform(0.75, 1.0))  # noqa: S311 - jitter, no secret


def _next(cron: str, after: datetime) -> datetime:
    from croniter import croniter  # noqa: PLC0415 - only an installation with schedules pays

    moment: datetime = croniter(cron, after).get_next(datetime)
    return moment
