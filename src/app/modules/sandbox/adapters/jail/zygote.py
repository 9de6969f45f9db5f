"""One project's zygote: a process behind walls that has imported what its workers will need."""

import asyncio
import itertools
import signal
from pathlib import Path
from typing import Final

import msgspec

from app.kernel import log
from app.kernel.errors import AppError
from app.modules.sandbox.adapters.jail.channel import Ends, JailWorker, NotReady
from app.modules.sandbox.adapters.jail.control import (
    Close,
    Ended,
    Failed,
    Fork,
    Frozen,
    Open,
    Order,
    Ready,
    Refused,
    Report,
    WorkerLimits,
)
from app.modules.sandbox.adapters.jail.host import (
    Interpreter,
    Tier,
    owner_of,
    package_bind,
)
from app.modules.sandbox.adapters.jail.process import Child
from app.modules.sandbox.adapters.jail.scratch import make_scratch, remove_tree
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import Gone, NoWall, TemplateFailed, WorkerFailed

# Importing pandas takes a second, and several on a machine that is busy.
START_S: Final = 60.0
READY_S: Final = 10.0
CLOSE_S: Final = 3.0
REAP_S: Final = 5.0
# Of a log that goes into an error.
LOG_TAIL_CHARS: Final = 2000

_log = log.get("sandbox")
_REPORTS: Final = msgspec.json.Decoder(Report)
_ORDERS: Final = msgspec.json.Encoder()


class Plan(msgspec.Struct, frozen=True):
    """What a zygote is made of. ``folder`` has the packages.

    ``room`` is for its workers' folders, in tier B alone.
    """

    tier: Tier
    interpreter: Interpreter
    folder: str | None
    preload: tuple[str, ...]
    limits: Limits
    uid_base: int | None
    room: Path | None


class Zygote:
    """Forks workers, from ``start`` until it is lost or closed."""

    def __init__(self, plan: Plan) -> None:
        """Begin to start it; ``OSError`` if there can be no process."""
        self.walls: dict[str, bool] = {}
        self._plan = plan
        self._numbers = itertools.count(1)
        self._workers: dict[int, JailWorker] = {}
        self._scratches: dict[int, Path] = {}
        self._removals: set[asyncio.Task[None]] = set()
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._is_closing = False
        self._fault = ""
        self._child = Child(plan.interpreter.command, self._hear, self._end)

    @classmethod
    async def start(cls, plan: Plan) -> "Zygote":
        """``NoWall`` if this host refuses a wall, ``TemplateFailed`` if it does not come up."""
        try:
            zygote = cls(plan)
        except OSError as error:
            raise TemplateFailed(f"No process can be started: {error}.") from error
        try:
            await zygote._build()
        except BaseException:
            await zygote.close()
            raise
        return zygote

    @property
    def pid(self) -> int:
        return self._child.pid

    async def spawn(self) -> JailWorker:
        if self._is_closing or self._lost.is_set():
            raise WorkerFailed(self._text("The project's first process has ended."))
        try:
            worker = self._fork(next(self._numbers))
        except OSError as error:
            raise WorkerFailed(f"The server has no room for a worker: {error}.") from error
        try:
            await worker.until_ready(READY_S)
        except NotReady as error:
            worker.kill()
            raise WorkerFailed(self._text(str(error))) from None
        except BaseException:
            worker.kill()
            raise
        return worker

    async def until_lost(self) -> str:
        await self._lost.wait()
        return self._text(self._fault or "The project's first process has ended.")

    async def close(self) -> None:
        self._is_closing = True
        try:
            async with asyncio.timeout(CLOSE_S):
                # One by one, so that each is known to be gone; they would not outlive it anyway.
                for worker in tuple(self._workers.values()):
                    worker.kill()
                await self._empty.wait()
                self._tell(Close())
                await self._lost.wait()
        except TimeoutError:
            _log.warning("sandbox.zygote-not-closed", pid=self.pid)
        finally:
            self._child.kill()
        try:
            async with asyncio.timeout(REAP_S):
                await self._lost.wait()
                await asyncio.gather(*self._removals)
        except TimeoutError:
            _log.warning("sandbox.zygote-not-reaped", pid=self.pid)

    async def _build(self) -> None:
        plan = self._plan
        packages = [] if plan.folder is None else [package_bind(plan.tier, plan.folder)]
        self._tell(
            Open(
                tier=plan.tier,
                binds=[*plan.interpreter.binds(), *packages],
                paths=[target for _, target in packages],
                preload=plan.preload,
                limits=WorkerLimits.of(plan.limits),
                uid_base=plan.uid_base,
                scratch=None if plan.room is None else str(plan.room),
            )
        )
        try:
            async with asyncio.timeout(START_S):
                self.walls = (await self._ready).walls
        except TimeoutError:
            text = f"The project's first process was not ready within {START_S:g} s."
            raise TemplateFailed(self._text(text)) from None

    def _fork(self, number: int) -> JailWorker:
        ends = Ends()
        worker = JailWorker(number, ends, self._tell, self._child.kill)
        self._workers[number] = worker
        self._empty.clear()
        try:
            scratch = self._make_scratch(number)
        except OSError:
            ends.close_theirs()
            self._bury(number, Gone())
            raise
        self._tell(Fork(number, scratch), ends.theirs)
        return worker

    def _make_scratch(self, number: int) -> str | None:
        plan = self._plan
        if plan.room is None:
            return None
        scratch = make_scratch(plan.room, number, owner_of(number, plan.uid_base))
        self._scratches[number] = scratch
        return str(scratch)

    def _tell(self, order: Order, files: tuple[int, ...] = ()) -> None:
        self._child.tell(_ORDERS.encode(order), files)

    def _hear(self, message: bytes) -> None:
        try:
            report = _REPORTS.decode(message)
        except msgspec.DecodeError as error:
            self._fault = f"The project's first process said what it should not: {error}."
            self._child.kill()
            return
        if isinstance(report, Ready):
            if not self._ready.done():
                self._ready.set_result(report)
        elif isinstance(report, Refused):
            self._fail(NoWall(f"{report.wall}: {report.why}"))
        elif isinstance(report, Failed):
            _log.warning("sandbox.import-failed", why=report.why)
            self._fail(TemplateFailed(_last_line(report.why)))
        elif isinstance(report, Ended):
            self._bury(report.id, report.event())
        elif worker := self._workers.get(report.id):
            worker.answered("frozen" if isinstance(report, Frozen) else "thawed")

    def _fail(self, error: AppError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)

    def _bury(self, number: int, gone: Gone) -> None:
        if worker := self._workers.pop(number, None):
            worker.ended(gone)
        if not self._workers:
            self._empty.set()
        if scratch := self._scratches.pop(number, None):
            self._remove(scratch)

    def _remove(self, folder: Path) -> None:
        removal = asyncio.create_task(asyncio.to_thread(remove_tree, folder))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    def _end(self) -> None:
        """The process is dead, and the kernel ends its workers with it."""
        self._fail(TemplateFailed(self._text("The project's first process ended at its start.")))
        for number in tuple(self._workers):
            self._bury(number, Gone(signal=signal.SIGKILL))
        if self._plan.room is not None:
            self._remove(self._plan.room)
        self._lost.set()

    def _text(self, what: str) -> str:
        """``what``, and the end of the log, which often says why."""
        return f"{what} {self._child.log[-LOG_TAIL_CHARS:]}".strip()


def _last_line(why: str) -> str:
    """What a traceback says at its end; where in the house that was is for the log."""
    return why.strip().rpartition("\n")[2]
