"""Work that outlives a request. A job is a row, written in the transaction that wants it.

Delivery is at least once: a job claims its own row before it acts. A schedule fires each of its
ticks exactly once, whatever the number of processes.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import JSON, Index
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp
from app.kernel.ports import utc_now

Work: TypeAlias = Callable[..., Awaitable[None]]

READY, RUNNING, DEAD = "ready", "running", "dead"


class Job(msgspec.Struct, frozen=True):
    """A named piece of work. ``cron`` makes it periodic (UTC), ``on`` names an event it follows."""

    name: str
    run: Work
    cron: str = ""
    on: str = ""
    max_attempts: int = 8
    lease_s: float = 60.0


class JobRow(Table):
    """One request to run a job. A finished job's row is deleted, a hopeless one stays as dead."""

    __tablename__ = "kernel_jobs"
    __table_args__ = (Index("ix_kernel_jobs_state_due_at", "state", "due_at"),)

    name: Mapped[str]
    args: Mapped[dict[str, str]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(default=READY)
    due_at: Mapped[datetime] = mapped_column(Timestamp, default=utc_now)
    attempts: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None] = mapped_column(Timestamp, default=None)
    worker: Mapped[str | None] = mapped_column(default=None)
    tick: Mapped[str | None] = mapped_column(unique=True, default=None)
    error: Mapped[str | None] = mapped_column(default=None)


class ScheduleRow(Table):
    """When a periodic job fires next."""

    __tablename__ = "kernel_schedules"

    name: Mapped[str] = mapped_column(unique=True)
    cron: Mapped[str]
    next_at: Mapped[datetime] = mapped_column(Timestamp)


class JobBook:
    """Every job of the house, by name, and who follows which event."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
        self.jobs: dict[str, Job] = {}
        self.wake: Callable[[], None] = _asleep
        for job in jobs:
            self.add(job)

    def add(self, job: Job) -> None:
        if job.name in self.jobs:
            raise ValueError(f"job declared twice: {job.name}")
        self.jobs[job.name] = job

    def followers(self, event: str) -> list[str]:
        return [job.name for job in self.jobs.values() if job.on == event]

    @property
    def schedules(self) -> Mapping[str, str]:
        return {job.name: job.cron for job in self.jobs.values() if job.cron}


def defer(
    session: AsyncSession, job: str, /, *, due_at: datetime | None = None, **args: str
) -> None:
    """Run ``job`` if, and only if, this transaction commits."""
    _add(session, job, args, due_at or utc_now())


def emit(session: AsyncSession, event: str, /, **args: str) -> None:
    """Tell the modules above: every job that follows ``event`` is deferred."""
    book: Any = session.info["jobs"]
    for job in book.followers(event):
        _add(session, job, args, utc_now())


def _add(session: AsyncSession, job: str, args: dict[str, str], due_at: datetime) -> None:
    session.add(JobRow(name=job, args=args, due_at=due_at))
    session.info["deferred"] = True


def _asleep() -> None:
    """Stand in until a runner says how it is woken; rows are found by polling all the same."""
