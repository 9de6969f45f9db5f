"""Executions of several processes, whose workers do what a test says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

from app.adapters.blobs.local import LocalBlobStore
from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.kernel.keys import AesGcmSeal, Keyring
from app.kernel.ports import utc_now
from app.modules.auth.api import Principal
from app.modules.routing.api import Completion
from app.modules.runs.api import Kind
from app.modules.runs.repository import RunRepository
from app.modules.sandbox.adapters.project_files import YamlProjectFiles
from app.modules.sandbox.domain.executions import FINAL, Execution, Order
from app.modules.sandbox.ports import Said
from app.modules.sandbox.service.executions import KIND, Executions
from app.modules.sandbox.service.executor import Executor
from app.modules.sandbox.service.pools import Pools
from app.modules.sandbox.service.projects import Projects
from app.modules.sandbox.service.shelf import Shelf
from app.modules.sandbox.service.views import Views
from tests.fakes.clock import FakeClock
from tests.fakes.runner import FakeRunner, FakeWorker
from tests.modules.runs import works
from tests.waiting import until

NOT_AGAIN = "The server stopped while the script ran. It is not run a second time."
WAIT_S = 10.0
CALLER = Principal(
    user_id=works.ANNA,
    kind="key",
    credential_id=UUID(int=9),
    role="owner",
    scopes=frozenset({"full"}),
)


class NoTiers:
    async def tier_of(self, principal: Principal) -> None:
        return None


class SlowModel:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()

    async def complete(
        self, principal: Principal, model: str, prompt: str, *, call_key: str = ""
    ) -> Completion:
        self.asked.append(prompt)
        await self.may_answer.wait()
        return Completion("yes", model, UUID(int=1), 1, 1)


class Process:
    """The sandbox of one process."""

    def __init__(self, site: "Site", clock: Any) -> None:
        self.runner = FakeRunner()
        seal = AesGcmSeal(Keyring(["m" * 32]), "sandbox-sealing")
        files = YamlProjectFiles(str(site.folder / "projects"))
        self.projects = Projects(
            site.db, seal, files, {}, lambda name: self.pools.state(name).status == "down"
        )
        self.pools = Pools(site.db, site.cache, self.runner, self.projects, site.replicas)
        self.shelf = Shelf(LocalBlobStore(site.folder / "blobs"))
        self.executor = Executor(site.db, clock, self.pools, self.shelf, site.model)

    @property
    def kind(self) -> Kind:
        return Kind(KIND, self.executor.work, recovery="continue", parallel=64)

    def begin(self, site: "Site", runs: Any) -> None:
        self.stalled = runs.runner
        self.executions = Executions(site.db, runs.runs, self.pools, self.executor, NoTiers())
        self.views = Views(site.db, runs.runs, runs.runs, self.executor.live, self.shelf)
        self.opening = asyncio.create_task(self.pools.open())

    async def end(self) -> None:
        self.executor.begin_closing()
        self.opening.cancel()
        await asyncio.gather(self.opening, return_exceptions=True)
        await self.pools.close()
        await self.executor.close()

    async def submit(self, code: str = "1", **given: Any) -> UUID:
        order = Order("default", code, given.pop("timeout_s", 60), **given)
        return (await self.executions.submit(CALLER, order, None)).id

    async def find(self, run_id: UUID) -> Execution:
        return await self.views.find(works.ANNA, run_id)

    async def wait(self, run_id: UUID) -> Execution:
        """When it has ended or asks."""
        return await self.views.wait(works.ANNA, run_id, within_s=WAIT_S)

    async def ended(self, run_id: UUID) -> Execution:
        async def found() -> Execution | None:
            now = await self.find(run_id)
            return now if now.status in FINAL else None

        return await until(found)

    async def worker(self, number: int = 0) -> FakeWorker:
        """The one that got the so many-th job, counted from 0."""

        def found() -> list[FakeWorker]:
            at_work = [w for w in self.runner.workers if any(f["t"] == "job" for f in w.sent)]
            return at_work[number:]

        return (await until(found))[0]

    async def begun(self, **given: Any) -> tuple[UUID, FakeWorker]:
        number = sum(any(f["t"] == "job" for f in w.sent) for w in self.runner.workers)
        run_id = await self.submit(**given)
        return run_id, await self.worker(number)

    async def asking(self) -> tuple[UUID, FakeWorker, str]:
        """A script that is paused, its worker, and the id of its question."""
        run_id, worker = await self.begun()
        worker.says.put_nowait(frame("llm", seq=1, prompt="why?", model="default"))
        execution = await self.wait(run_id)
        assert execution.status == "awaiting_llm"
        assert execution.request_id is not None
        return run_id, worker, execution.request_id

    async def respond(self, run_id: UUID, text: str, request_id: str | None = None) -> None:
        await self.executions.respond(works.ANNA, run_id, text, request_id)

    def stall(self) -> None:
        """It neither renews its leases nor looks for others."""
        for task in self.stalled._loops:
            task.cancel()


class Site:
    """What the processes of one installation share."""

    def __init__(self, db: Database, folder: Any, stack: AsyncExitStack) -> None:
        self.db = db
        self.folder = folder
        self.cache = MemoryCache()
        self.model = SlowModel()
        self.replicas = 2
        self._stack = stack

    async def open(self, clock: Any = utc_now) -> Process:
        return await self._stack.enter_async_context(self._opened(clock))

    async def heir(self) -> Process:
        """A process that comes when the leases of all others are over."""
        clock = FakeClock()
        clock.advance(3600)
        return await self.open(clock)

    async def story(self, run_id: UUID) -> list[str]:
        """The names of what happened in a run so far."""
        async with self.db.read() as session:
            events = await RunRepository(session, utc_now()).events(run_id, 0)
        return [event.name for event in events]

    @asynccontextmanager
    async def _opened(self, clock: Any) -> AsyncIterator[Process]:
        process = Process(self, clock)
        async with works.opened(self.db, self.cache, process.kind, clock=clock) as runs:
            process.begin(self, runs)
            try:
                yield process
            finally:
                await process.end()


def frame(kind: str, **fields: Any) -> Said:
    return Said(json.dumps({"t": kind, **fields}).encode())


def done(result: Any = None, **more: Any) -> Said:
    told = {
        "ok": True,
        "exit_code": 0,
        "error": None,
        "has_result": result is not None,
        "result": result,
        "memory": {},
    }
    return frame("done", **{**told, **more})
