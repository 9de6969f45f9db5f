"""Sandbox: runs untrusted Python, isolated or not at all, and answers while it runs.

Routes, below ``/sandbox`` (``SANDBOX_PREFIX`` moves them): ``POST /execute``; ``GET /executions``,
``/executions/{id}``, ``/executions/{id}/events`` (SSE), ``/executions/{id}/artifacts/{name}``;
``POST /executions/{id}/respond``, ``/executions/{id}/cancel``; ``GET /projects``; ``GET``, ``PUT``,
``DELETE /projects/{name}``; ``POST /projects/{name}/up``, ``/projects/{name}/down``;
``GET /health``, ``/capabilities``. Tables: ``sandbox_executions``, ``sandbox_pools``,
``sandbox_projects``.

An execution is a run of the house: pending (no worker yet), running, awaiting_llm (its script asks
a language model, and is frozen), then completed, error or timeout. A script is begun once: where
its process is gone, it ends as an error that says so. A project is down, building, up or degraded;
each worker runs one script and is gone.
"""

import argparse
import asyncio

from litestar import Router
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from app.kernel.jobs import Job
from app.kernel.module import Command, Kit, Module, always
from app.modules.billing.api import Tiers
from app.modules.routing.api import Completions
from app.modules.runs.api import Kind, RunLog, Runs
from app.modules.sandbox.adapters import (
    open_heartbeats,
    open_project_files,
    open_runner,
    open_seal,
)
from app.modules.sandbox.adapters.cli import add_arguments, command
from app.modules.sandbox.api import Scripts
from app.modules.sandbox.controllers import (
    AboutController,
    ExecuteController,
    ExecutionController,
    ProjectController,
)
from app.modules.sandbox.models import ExecutionRow, PoolRow, ProjectRow
from app.modules.sandbox.service.executions import KIND, Executions
from app.modules.sandbox.service.executor import Executor
from app.modules.sandbox.service.pools import Pools
from app.modules.sandbox.service.projects import Projects
from app.modules.sandbox.service.scripts import SandboxScripts
from app.modules.sandbox.service.shelf import Shelf
from app.modules.sandbox.service.views import Views
from app.modules.sandbox.settings import SandboxSettings
from app.settings import ENVIRON

# Executions that one process has in its hands: at work, paused, and waiting for a worker.
PARALLEL = 2048


async def _command(options: argparse.Namespace) -> str:
    return await command(ENVIRON, options)


class SandboxModule(Module):
    name = "sandbox"
    settings_type = SandboxSettings
    models = (ExecutionRow, PoolRow, ProjectRow)
    clients = (
        Command("sandbox", "run a script, or see what isolates it", add_arguments, _command),
    )

    def __init__(self, settings: SandboxSettings, kit: Kit) -> None:
        self._settings = settings
        self._heartbeats = open_heartbeats(kit)
        runs = kit.use(Runs)
        runner = open_runner(settings, kit, self._heartbeats, ENVIRON)
        self.projects = Projects(
            kit.db,
            open_seal(kit),
            open_project_files(settings, kit),
            ENVIRON,
            lambda name: self.pools.state(name).status == "down",
        )
        self.pools = Pools(kit.db, kit.cache, runner, self.projects, settings.replicas)
        shelf = Shelf(kit.blobs)
        self.executor = Executor(kit.db, kit.clock, self.pools, shelf, kit.find(Completions))
        live = self.executor.live
        self.executions = Executions(kit.db, runs, self.pools, self.executor, kit.use(Tiers))
        self.views = Views(kit.db, runs, kit.use(RunLog), live, shelf)
        self.scripts = SandboxScripts(
            self.executions, self.views, has_gateway=self.executor.has_gateway
        )
        runs.offer(Kind(KIND, self.executor.work, recovery="continue", parallel=PARALLEL))
        self._tasks: list[asyncio.Task[None]] = []

    def exports(self) -> dict[type, object]:
        return {Scripts: self.scripts}

    def handlers(self) -> tuple[ControllerRouterHandler, ...]:
        controllers = [AboutController, ExecuteController, ExecutionController, ProjectController]
        return (Router(self._settings.prefix, route_handlers=controllers),)

    def dependencies(self) -> dict[str, Provide]:
        return {
            "executions": always(self.executions),
            "pools": always(self.pools),
            "projects": always(self.projects),
            "views": always(self.views),
        }

    def body_limits(self) -> dict[str, int]:
        return {self._settings.prefix: self._settings.body_limit_bytes}

    def jobs(self) -> tuple[Job, ...]:
        return (Job("sandbox.forget", self.views.forget, on="runs.forgotten"),)

    async def open(self) -> None:
        """Workers come up beside the rest of the start; who asks sooner waits for them."""
        self._tasks = [
            asyncio.create_task(self._heartbeats.beat(), name="sandbox-heartbeat"),
            asyncio.create_task(self.pools.open(), name="sandbox-pools"),
        ]

    async def close(self) -> None:
        self.executor.begin_closing()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pools.close()
        await self.executor.close()
