"""The verbs of executions: start one, answer it, stop it."""

import asyncio
from contextlib import suppress
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from app.kernel.db import Database, after_commit
from app.kernel.errors import Conflict, Invalid, TooLarge, Unavailable
from app.modules.auth.api import Principal
from app.modules.billing.api import Tiers
from app.modules.runs.api import NoSuchRun, NotAwaiting, Runs, Wish
from app.modules.sandbox.domain.executions import Execution, Order, status_of
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.domain.projects import Project, for_tier
from app.modules.sandbox.repository.executions import ExecutionRepository
from app.modules.sandbox.service.executor import Executor
from app.modules.sandbox.service.pool import Pool
from app.modules.sandbox.service.pools import Pools
from app.modules.sandbox.service.views import NoSuchExecution

KIND: Final = "sandbox.execution"
KB: Final = 1024
STOP_S: Final = 10.0


class NotPaused(Conflict):
    """The script does not wait for this answer."""

    title = "Not awaiting an answer"


class ExecutionInvalid(Invalid):
    """What was asked for cannot be done in this project."""

    title = "Execution invalid"


class NoGateway(Unavailable):
    """Nothing in this process asks language models."""

    title = "No gateway"


class ExecutionTooLarge(TooLarge):
    """The script, or something that was given to it, is larger than its project allows."""

    title = "Execution too large"


class Executions:
    """Writes. What it starts, ``executor`` does."""

    def __init__(
        self, db: Database, runs: Runs, pools: Pools, executor: Executor, tiers: Tiers
    ) -> None:
        self._db = db
        self._runs = runs
        self._pools = pools
        self._executor = executor
        self._live = executor.live
        self._tiers = tiers

    async def submit(
        self, principal: Principal, order: Order, idempotency_key: str | None
    ) -> Execution:
        """Start an execution; with a key that was used before, find the one of then."""
        pool = await self._pools.of(order.project)
        limits = for_tier(pool.project.limits, await self._tiers.tier_of(principal))
        _check(order, limits)
        wish = Wish(
            principal.user_id, KIND, order.project, idempotency_key, _digest(order, idempotency_key)
        )
        order = _completed(order, pool.project, limits, principal)
        if order.llm == "gateway" and not self._executor.has_gateway:
            raise NoGateway('There is no gateway in this process; use llm: "caller".')
        pool.enter()
        is_here = False
        try:
            execution, is_here = await self._start(wish, order, pool)
        finally:
            if not is_here:
                pool.entered()
        return execution

    async def respond(
        self, user_id: UUID, run_id: UUID, response: str, request_id: str | None
    ) -> None:
        """Answer what the script asks; of several answers one is taken."""
        async with self._db.begin() as session:
            repository = ExecutionRepository(session)
            if await repository.owned(user_id, run_id) is None:
                raise NoSuchExecution(f"There is no execution {run_id}.")
            run = (await self._runs.find(session, [run_id]))[run_id]
            seq = run.question_seq
            if run.status != "awaiting" or seq is None:
                raise NotPaused("This execution does not wait for an answer.")
            if request_id is not None and request_id != str(seq):
                text = "This request_id is not that of the question that waits for an answer."
                raise NotPaused(text, request_id=str(seq))
            try:
                await self._runs.answer(session, run_id, seq, {"response": response})
            except NotAwaiting as error:
                raise NotPaused("This question has its answer already.") from error
            await repository.ask(run_id, None)
            if (live := self._live.find(run_id)) is not None:
                after_commit(session, live.run)

    async def cancel(self, user_id: UUID, run_id: UUID) -> None:
        """Stop it; one that has ended stays as it is."""
        async with self._db.read() as session:
            if await ExecutionRepository(session).owned(user_id, run_id) is None:
                raise NoSuchExecution(f"There is no execution {run_id}.")
        try:
            await self._runs.cancel(user_id, run_id)
        except NoSuchRun:
            raise NoSuchExecution(f"There is no execution {run_id}.") from None
        if (live := self._live.find(run_id)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await live.until_final()

    async def _start(self, wish: Wish, order: Order, pool: Pool) -> tuple[Execution, bool]:
        """The execution, and whether it begins in this process and keeps its place in the queue."""
        async with self._db.begin() as session:
            run, is_new = await self._runs.start(session, wish)
            if is_new:
                request = msgspec.json.encode(order)
                await ExecutionRepository(session).add(
                    run.id, wish.user_id, order.project, request, run.created_at
                )
        is_here = is_new and run.status == "running"
        status = status_of(run.status, is_queued=is_here)
        execution = Execution(run.id, order.project, status, run.created_at)
        if is_here:
            # Its work begins when the loop turns next, and finds here what was given to it.
            self._live.add(wish.user_id, execution, order).enter_queue(pool)
        return execution, is_here


def _completed(order: Order, project: Project, limits: Limits, principal: Principal) -> Order:
    llm = order.llm or project.llm
    caller = msgspec.json.encode(principal) if llm == "gateway" else b""
    return msgspec.structs.replace(order, llm=llm, limits=limits, caller=caller)


def _check(order: Order, limits: Limits) -> None:
    """Hold an order against what its project and its caller's tier allow."""
    if order.timeout_s > limits.wall_s:
        text = f"timeout is {order.timeout_s} s; {order.project} allows {limits.wall_s} s."
        raise ExecutionInvalid(text, limit_s=limits.wall_s)
    names = [file.name for file in order.files]
    if len(set(names)) < len(names):
        raise ExecutionInvalid("Two of the files have the same name.")
    settings_bytes = sum(len(k.encode()) + len(v.encode()) for k, v in order.settings.items())
    _check_size("code", len(order.code.encode()), limits.code_kb)
    _check_size("settings", settings_bytes, limits.settings_kb)
    _check_size("memory", len(msgspec.json.encode(order.memory)), limits.memory_state_kb)
    _check_size("files", sum(len(file.data) for file in order.files), limits.input_mb * KB)


def _check_size(what: str, size_bytes: int, limit_kb: int) -> None:
    if size_bytes > limit_kb * KB:
        text = f"{what} has {size_bytes} bytes; {limit_kb} KiB are allowed."
        raise ExecutionTooLarge(text, limit_bytes=limit_kb * KB)


def _digest(order: Order, idempotency_key: str | None) -> str:
    """Tell orders with the same key apart."""
    if idempotency_key is None:
        return ""
    return sha256(msgspec.json.encode(order)).hexdigest()
