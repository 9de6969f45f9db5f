"""A runner whose workers do what a test says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from app.modules.sandbox.ports import (
    Capabilities,
    Gone,
    TemplateFailed,
    TemplateSpec,
    WorkerEvent,
    WorkerFailed,
)


class FakeWorker:
    """Says what the test puts into ``says``."""

    def __init__(self) -> None:
        self.is_gone = False
        self.sent: list[dict[str, Any]] = []
        self.says: asyncio.Queue[WorkerEvent] = asyncio.Queue()

    async def send(self, frame: dict[str, Any]) -> None:
        self.sent.append(frame)

    async def events(self) -> AsyncIterator[WorkerEvent]:
        while True:
            event = await self.says.get()
            yield event
            if isinstance(event, Gone):
                return

    async def freeze(self) -> None:
        self.sent.append({"t": "-freeze"})

    async def thaw(self) -> None:
        self.sent.append({"t": "-thaw"})

    def kill(self) -> None:
        self.is_gone = True
        self.says.put_nowait(Gone(signal=9))


class FakeTemplate:
    def __init__(self, project: str) -> None:
        self.project = project
        self.workers: list[FakeWorker] = []
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_closed = False
        self.fails = 0

    async def spawn(self) -> FakeWorker:
        if self.fails:
            self.fails -= 1
            raise WorkerFailed("No worker, says the test.")
        worker = FakeWorker()
        self.workers.append(worker)
        return worker

    async def until_lost(self) -> str:
        return await asyncio.shield(self.lost)

    async def close(self) -> None:
        self.is_closed = True
        for worker in self.workers:
            worker.kill()


class FakeRunner:
    """Keeps what it has made; ``refusals`` are the next ``prepare`` that fail, ``refused`` the
    projects that always do.

    It opens, and prepares the projects that are in ``held``, only when the test lets it.
    """

    def __init__(self, tier: str = "A") -> None:
        self.tier = tier
        self.templates: list[FakeTemplate] = []
        self.specs: list[TemplateSpec] = []
        self.refusals: list[str] = []
        self.refused: set[str] = set()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.held: dict[str, asyncio.Event] = {}
        self.sweeps = 0
        self.is_closed = False

    async def open(self) -> Capabilities:
        await self.may_open.wait()
        return Capabilities("fake", self.tier, reason="" if self.tier != "none" else "No walls.")

    async def prepare(self, spec: TemplateSpec) -> FakeTemplate:
        self.specs.append(spec)
        if spec.project in self.held:
            await self.held[spec.project].wait()
        if spec.project in self.refused:
            raise TemplateFailed("Not this one, says the test.")
        if self.refusals:
            raise TemplateFailed(self.refusals.pop(0))
        self.templates.append(FakeTemplate(spec.project))
        return self.templates[-1]

    async def sweep(self) -> None:
        self.sweeps += 1

    async def close(self) -> None:
        self.is_closed = True

    @property
    def workers(self) -> list[FakeWorker]:
        return [worker for template in self.templates for worker in template.workers]
