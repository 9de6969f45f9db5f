"""One project's workers: kept ready, handed out in the order of asking, replaced."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Literal, TypeAlias

import msgspec

from app.kernel import log
from app.kernel.errors import AppError, TooMany, Unavailable
from app.modules.sandbox.domain.projects import Project
from app.modules.sandbox.ports import Runner, Template, TemplateSpec, Worker, WorkerFailed

PoolStatus: TypeAlias = Literal["up", "down", "building", "degraded"]

# A worker that is taken is replaced a little later: its script has the processor first.
REFILL_AFTER_S: Final = 0.02
SPAWN_TRIES: Final = 3
# Seconds before a template is made again, by how often it was lost in a row.
BACKOFF_S: Final = (0.0, 0.1, 1.0, 5.0, 30.0)
STEADY_S: Final = 60.0
QUEUE_RETRY_S: Final = 1

_log = log.get("sandbox")


class QueueFull(TooMany):
    """As many executions of this project wait as may."""

    title = "Queue full"


class PoolClosed(Unavailable):
    """The project went down while this waited for a worker."""

    title = "Project down"


class PoolState(msgspec.Struct, frozen=True):
    """A project's pool in this process. ``error`` says why it is degraded."""

    status: PoolStatus
    replicas: int = 0
    idle_workers: int = 0
    error: str = ""


class Pool:
    """One project's workers: ``replicas`` ready, and as many at work.

    A paused one is not at work. Whoever asks first is served first.
    """

    def __init__(
        self, runner: Runner, project: Project, secrets: Mapping[str, str], replicas: int
    ) -> None:
        self.project = project
        self.secrets = secrets
        self.replicas = replicas
        self.paused = 0
        # Which ``up`` it is of, for all processes.
        self.version = 0
        self._runner = runner
        self._template: Template | None = None
        self._error = ""
        self._entering = 0
        self._at_work = 0
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._idle: deque[Worker] = deque()
        self._ready = asyncio.Event()
        self._empty = asyncio.Event()
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_closed = False

    @property
    def state(self) -> PoolState:
        idle = sum(not worker.is_gone for worker in self._idle)
        status: PoolStatus = "up" if self._ready.is_set() else "building"
        if self._error:
            status = "degraded"
        return PoolState(status, self.replicas, idle, self._error)

    @property
    def queued(self) -> int:
        return len(self._queue) + self._entering

    @property
    def is_busy(self) -> bool:
        """Whether who asks now has to wait."""
        return not self._ready.is_set() or bool(self._queue) or self._at_work >= self.replicas

    async def open(self) -> None:
        """Make the template; ``TemplateFailed`` or ``NoWall`` if there can be none."""
        self._template = await self._runner.prepare(_spec(self.project))
        self._ready.set()
        self._wanted.set()
        self._tasks = [
            asyncio.create_task(self._tend(), name=f"sandbox-pool-{self.project.name}"),
            asyncio.create_task(self._refill(), name=f"sandbox-refill-{self.project.name}"),
        ]

    def resize(self, replicas: int) -> None:
        """Keep so many ready from now on, and let so many work."""
        self.replicas = replicas
        self._hand_on()

    def fail(self, reason: str) -> None:
        """The template could not be made: whoever waits need not."""
        self._error = reason
        self._ready.set()
        self._let_go()

    def enter(self) -> None:
        """Count one who is about to ask; ``QueueFull`` where too many wait. Then ``entered``."""
        if self._is_closed:
            raise PoolClosed(f"The project {self.project.name} is going down.")
        if self.queued >= self.project.limits.queue:
            text = f"{self.queued} executions of {self.project.name} wait already."
            raise QueueFull(text, retry_after_s=QUEUE_RETRY_S)
        self._entering += 1

    def entered(self) -> None:
        self._entering -= 1
        self._hand_on()

    async def take(self) -> Worker:
        """A ready worker. Give it back by ``release``, whatever happens."""
        await self._place()
        self._taken += 1
        try:
            await self._ready.wait()
            return await self._worker()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """The place of a worker is free; the worker itself is gone, or will be."""
        self._at_work -= 1
        self._taken -= 1
        self._hand_on()

    def pause(self) -> None:
        """A worker waits for a model: another may work meanwhile."""
        self.paused += 1
        self._at_work -= 1
        self._hand_on()

    def resume(self) -> None:
        """It goes on at once, also where all places are taken: it has waited long enough."""
        self.paused -= 1
        self._at_work += 1

    async def drain(self) -> None:
        """Take nobody new, let those finish who are here, and end the workers."""
        self._is_closed = True
        self._drop_idle()
        while self._taken or self.queued:
            self._empty.clear()
            await self._empty.wait()
        await self.close()

    async def close(self) -> None:
        """End every worker, also those at work."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._error = self._error or "The project is down."
        self._ready.set()
        self._let_go()
        self._drop_idle()
        if self._template is not None:
            await self._template.close()

    async def _place(self) -> None:
        if self._at_work < self.replicas and not self._queue:
            self._at_work += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._at_work -= 1
            with suppress(ValueError):
                self._queue.remove(turn)
            self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Give free places to those who wait longest."""
        while self._queue and self._at_work < self.replicas:
            turn = self._queue.popleft()
            if not turn.done():
                self._at_work += 1
                turn.set_result(None)
        if not self._taken and not self.queued:
            self._empty.set()
        self._wanted.set()

    def _let_go(self) -> None:
        """Let all who wait find out why there is nothing to wait for."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                self._at_work += 1
                turn.set_result(None)

    async def _worker(self) -> Worker:
        for _ in range(SPAWN_TRIES):
            if self._error or self._template is None:
                raise WorkerFailed(f"The project {self.project.name} is not up: {self._error}")
            while self._idle:
                worker = self._idle.popleft()
                asyncio.get_running_loop().call_later(REFILL_AFTER_S, self._wanted.set)
                if not worker.is_gone:
                    return worker
            with suppress(WorkerFailed):
                return await self._template.spawn()
            await self._ready.wait()
        raise WorkerFailed(f"No worker of {self.project.name} could be started; try again.")

    async def _refill(self) -> None:
        """Keep as many ready as there are replicas."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._idle = deque(worker for worker in self._idle if not worker.is_gone)
            while len(self._idle) > self.replicas:
                self._idle.pop().kill()
            try:
                while not self._is_closed and self._template and len(self._idle) < self.replicas:
                    await self._ready.wait()
                    self._idle.append(await self._template.spawn())
            except WorkerFailed as error:
                _log.warning("sandbox.spawn-failed", reason=str(error))
            except Exception as error:  # noqa: BLE001 - the loop must survive one bad spawn
                _log.exception("sandbox.spawn-broken", error)

    async def _tend(self) -> None:
        """Make the template again when it is lost, more slowly the more often that happens."""
        losses = 0
        loop = asyncio.get_running_loop()
        while self._template is not None:
            since = loop.time()
            reason = await self._template.until_lost()
            losses = 1 if loop.time() - since > STEADY_S else losses + 1
            _log.warning("sandbox.template-lost", project=self.project.name, reason=reason)
            self._ready.clear()
            self._drop_idle()
            await self._template.close()
            await self._again(losses)

    async def _again(self, losses: int) -> None:
        while True:
            await asyncio.sleep(BACKOFF_S[min(losses, len(BACKOFF_S)) - 1])
            try:
                self._template = await self._runner.prepare(_spec(self.project))
            except AppError as error:
                losses += 1
                self._error = str(error)
                _log.warning(
                    "sandbox.template-failed", project=self.project.name, reason=str(error)
                )
                if losses >= len(BACKOFF_S):
                    self._ready.set()
                    self._let_go()
            else:
                self._error = ""
                self._ready.set()
                self._wanted.set()
                return

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().kill()


def _spec(project: Project) -> TemplateSpec:
    return TemplateSpec(project.name, project.packages, project.preload, project.limits)
