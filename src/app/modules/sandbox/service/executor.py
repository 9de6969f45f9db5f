"""Does executions: each a run of the house, in the hands of this process."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel import log
from app.kernel.db import Database, after_commit
from app.kernel.errors import AppError
from app.kernel.ports import Clock
from app.modules.auth.api import Principal
from app.modules.routing.api import Completions
from app.modules.runs.api import Ended, News, RunLost, Turn
from app.modules.sandbox.domain.executions import Execution, Order, Outcome, status_of
from app.modules.sandbox.ports import Worker
from app.modules.sandbox.repository.executions import ExecutionRepository
from app.modules.sandbox.service.attempt import Attempt, Verdict
from app.modules.sandbox.service.live import Live, LiveExecution
from app.modules.sandbox.service.llm import Asking, CallerAsking, GatewayAsking
from app.modules.sandbox.service.pool import Pool
from app.modules.sandbox.service.pools import Pools
from app.modules.sandbox.service.shelf import Shelf

# Who gets a worker sooner has not waited: that costs no transaction.
QUEUED_AFTER_S: Final = 0.05
CLOSE_S: Final = 5.0
DETAIL_LIMIT_CHARS: Final = 500
NOT_AGAIN: Final = Verdict(
    "interrupted",
    "process_gone",
    "The server stopped while the script ran. It is not run a second time.",
)

_log = log.get("sandbox")


class Executor:
    """``work`` is what the kind of run does. ``completions`` is there if the gateway is."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        pools: Pools,
        shelf: Shelf,
        completions: Completions | None,
    ) -> None:
        self.live = Live()
        self._db = db
        self._clock = clock
        self._pools = pools
        self._shelf = shelf
        self._completions = completions
        self._keeping: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def has_gateway(self) -> bool:
        """Whether scripts can be answered in this process."""
        return self._completions is not None

    async def work(self, turn: Turn) -> Ended:
        """Run the script of a run, unless another process has begun it before."""
        live, order, is_queued = await self._take_up(turn)
        if order is None or (turn.run.fence > 1 and not is_queued):
            return self._ended(live, NOT_AGAIN, Outcome(self._clock(), error=NOT_AGAIN.error))
        attempt: Attempt | None = None
        try:
            pool = live.pool or await self._pools.of(order.project)
            worker = await self._worker(turn, live, pool, is_queued=is_queued)
            live.run()
            try:
                asking = self._asking(turn, live, order, pool)
                attempt = Attempt(turn, order, pool, self._shelf, asking)
                live.output = attempt.output
                verdict = await attempt.run(worker)
            finally:
                worker.kill()
                pool.release()
        except (asyncio.CancelledError, RunLost):
            self._left(live, attempt)
            raise
        except AppError as error:
            await self._unless_closing(turn, live, is_begun=attempt is not None)
            verdict = Verdict("failed", _code(error), str(error))
        finally:
            live.leave_queue()
        if self._is_closing and verdict.status == "failed" and verdict.done is None:
            verdict = NOT_AGAIN
        return self._ended(live, verdict, self._outcome(attempt, verdict))

    def begin_closing(self) -> None:
        """From here on, a worker that goes does so because the server does."""
        self._is_closing = True

    async def close(self) -> None:
        """Wait for what has begun to be written down as it ended; what has not is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.live.until_settled()
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def _unless_closing(self, turn: Turn, live: LiveExecution, *, is_begun: bool) -> None:
        """What could not begin is left to the next process: wait until the runner lets go of it."""
        if self._is_closing and not is_begun:
            with suppress(AppError):
                await self._queue(turn, is_queued=True)
            live.park()
            await asyncio.Event().wait()

    async def _take_up(self, turn: Turn) -> tuple[LiveExecution, Order | None, bool]:
        """The execution, what it was given, and whether it has waited for a worker before."""
        run = turn.run
        live = self.live.find(run.id)
        if live is not None and live.order is not None:
            return live, live.order, False
        async with self._db.read() as session:
            row = await ExecutionRepository(session).find(run.id)
        project = row.project if row else ""
        execution = Execution(run.id, project, "pending", run.created_at)
        live = self.live.add(run.user_id, execution, None)
        if row is None or row.request is None:
            return live, None, False
        return live, msgspec.json.decode(row.request, type=Order), row.is_queued

    async def _worker(
        self, turn: Turn, live: LiveExecution, pool: Pool, *, is_queued: bool
    ) -> Worker:
        """A worker, in turn. Who has to wait is written down as one who has not begun."""
        is_free = not pool.is_busy and not is_queued
        taking = asyncio.ensure_future(pool.take())
        # From its first step on, ``take`` counts: the place that was kept for it is not needed.
        taking.get_loop().call_soon(live.leave_queue)
        try:
            await asyncio.wait({taking}, timeout=None if is_free else QUEUED_AFTER_S)
            if not taking.done() and not is_queued:
                await self._queue(turn, is_queued=True)
                is_queued = True
            await asyncio.wait({taking})
            if is_queued and taking.exception() is None:
                await self._queue(turn, is_queued=False)
        except BaseException:
            await _give_back(taking, pool)
            raise
        return taking.result()

    async def _queue(self, turn: Turn, *, is_queued: bool) -> None:
        async def write(session: AsyncSession) -> None:
            await ExecutionRepository(session).queue(turn.run.id, is_queued=is_queued)

        await turn.say(News("queued" if is_queued else "started"), write=write)

    def _asking(self, turn: Turn, live: LiveExecution, order: Order, pool: Pool) -> Asking:
        if order.llm == "gateway" and self._completions is not None:
            caller = msgspec.json.decode(order.caller, type=Principal)
            return GatewayAsking(turn, self._completions, caller, pool.project.model)
        return CallerAsking(turn, live, order.limits.llm_wait_s)

    def _outcome(self, attempt: Attempt | None, verdict: Verdict) -> Outcome:
        if attempt is None:
            return Outcome(self._clock(), error=verdict.error)
        return attempt.outcome(verdict, self._clock())

    def _ended(self, live: LiveExecution, verdict: Verdict, outcome: Outcome) -> Ended:
        execution = msgspec.structs.replace(
            live.execution,
            status=status_of(verdict.status, is_queued=False),
            outcome=outcome,
            question=None,
            request_id=None,
            completed_at=outcome.completed_at,
            error=outcome.error,
        )
        raw = msgspec.json.encode(outcome)

        async def write(session: AsyncSession) -> None:
            await ExecutionRepository(session).end(execution.id, raw, outcome.completed_at)
            after_commit(session, partial(self.live.end, execution, len(raw)))

        self.live.expect_end(execution.id)
        return Ended(verdict.status, verdict.code, _short(outcome.error), write=write)

    def _left(self, live: LiveExecution, attempt: Attempt | None) -> None:
        """The run was ended, or is left to another process: keep what the script has said."""
        task = asyncio.create_task(self._keep(live, attempt))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, live: LiveExecution, attempt: Attempt | None) -> None:
        try:
            if attempt is not None:
                raw = msgspec.json.encode(attempt.outcome(None, self._clock()))
                async with self._db.begin() as session:
                    await ExecutionRepository(session).keep(live.execution.id, raw)
        except AppError as error:
            _log.warning("sandbox.output-not-kept", reason=str(error))
        finally:
            self.live.drop(live.execution.id)


async def _give_back(taking: "asyncio.Future[Worker]", pool: Pool) -> None:
    """Whoever left before a worker came needs none."""
    if taking.done() and not taking.cancelled() and taking.exception() is None:
        taking.result().kill()
        pool.release()
        return
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


def _code(error: AppError) -> str:
    return error.title.lower().replace(" ", "_")


def _short(error: str | None) -> str:
    """The last line of a traceback says what happened."""
    lines = (error or "").strip().splitlines()
    return lines[-1][:DETAIL_LIMIT_CHARS] if lines else ""
