"""Runs: the one life cycle of everything that takes a while, and the log of what happened in it.

Routes: ``GET /api/v1/runs``, ``/api/v1/runs/{id}``, ``/api/v1/runs/{id}/events`` (SSE with
``Last-Event-ID``), ``POST /api/v1/runs/{id}/cancel``. Tables: ``runs_runs``, ``runs_events``.

States: pending, running, awaiting (an answer from outside), then one of completed, failed,
timed_out, cancelled, interrupted (its process died, or was stopped) and unknown (its process died
in the middle of something that may have happened). Every change of state is an event, written in
its transaction; events are numbered from 1 without a gap. A process holds a run by a lease and by
a fence, a number that each claim raises: with an older one nothing can be written. Cancelling ends
the run first and stops the work then.
"""

import asyncio
from datetime import timedelta

from litestar.di import Provide

from app.kernel.jobs import Job
from app.kernel.module import Kit, Module, known
from app.modules.runs.api import RunLog, Runs
from app.modules.runs.controllers import RunController
from app.modules.runs.models import EventRow, RunRow
from app.modules.runs.service.news import RunNews
from app.modules.runs.service.runner import Runner
from app.modules.runs.service.runs import RunService
from app.modules.runs.settings import RunSettings


class RunsModule(Module):
    name = "runs"
    settings_type = RunSettings
    models = (RunRow, EventRow)
    routes = (RunController,)

    def __init__(self, settings: RunSettings, kit: Kit) -> None:
        self._settings = settings
        self._news = RunNews(kit.cache)
        self.runner = Runner(kit.db, kit.clock, self._news, lease_s=settings.lease_s)
        self.runs = RunService(kit.db, kit.clock, self.runner, self._news)
        self._tasks: list[asyncio.Task[None]] = []

    def exports(self) -> dict[type, object]:
        return {Runs: self.runs, RunLog: self.runs}

    def dependencies(self) -> dict[str, Provide]:
        return {"run_service": known(self.runs)}

    def jobs(self) -> tuple[Job, ...]:
        return (Job("runs.sweep", self._sweep, cron="23 * * * *"),)

    async def open(self) -> None:
        self._tasks = [
            asyncio.create_task(self._news.listen(), name="runs-news"),
            asyncio.create_task(self.runs.hear(), name="runs-answers"),
        ]
        await self.runner.open()

    async def close(self) -> None:
        await self.runner.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        keep = timedelta(hours=self._settings.keep_hours)
        await self.runs.sweep(keep=keep, keep_count=self._settings.keep_count)
