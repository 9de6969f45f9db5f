"""The verbs of executions: start one, stop it."""

from contextlib import suppress
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec

from app.kernel.db import Database
from app.kernel.errors import Conflict, Forbidden, Invalid, TooLarge
from app.modules.auth.api import Principal
from app.modules.billing.api import LimitReached, Tiers
from app.modules.flows.domain.definitions import Plan
from app.modules.flows.domain.depths import DEPTH_LIMIT, is_too_deep
from app.modules.flows.domain.executions import KIND, Execution, Order, status_of
from app.modules.flows.repository.executions import ExecutionRepository
from app.modules.flows.service.engine import Engine, Taken
from app.modules.flows.service.flows import Flows
from app.modules.flows.service.plans import Planned
from app.modules.flows.service.views import NoSuchExecution
from app.modules.runs.api import NoSuchRun, Run, Runs, Wish

INPUT_LIMIT_BYTES: Final = 2**20
AGAIN_S: Final = 5.0


class ExecutionNotRunning(Conflict):
    """It has ended already, and not by being cancelled."""

    title = "Execution not running"


class InputTooLarge(TooLarge):
    """An execution is given at most a MiB."""

    title = "Input too large"


class InputTooDeep(Invalid):
    """What can be read so deep may not be written again."""

    title = "Input too deep"


class InsufficientCredits(Forbidden):
    """The caller's budget of this period is spent."""

    title = "Insufficient credits"


class _PlanChanged(Exception):
    """What was remembered is not what would be run."""


class Executions:
    """Writes. What it starts, ``engine`` does."""

    def __init__(
        self, db: Database, runs: Runs, flows: Flows, engine: Engine, tiers: Tiers
    ) -> None:
        self._db = db
        self._runs = runs
        self._flows = flows
        self._engine = engine
        self._tiers = tiers

    async def start(
        self, principal: Principal, order: Order, idempotency_key: str | None
    ) -> Execution:
        """Start an execution; with a key that was used before, find the one of then."""
        if is_too_deep([order.input_data, order.metadata]):
            raise InputTooDeep(f"input_data and metadata are nested at most {DEPTH_LIMIT} deep.")
        raw = msgspec.json.encode(order)
        if len(raw) > INPUT_LIMIT_BYTES:
            raise InputTooLarge(
                f"input_data and metadata have {len(raw)} bytes; {INPUT_LIMIT_BYTES} are allowed.",
                limit_bytes=INPUT_LIMIT_BYTES,
            )
        await self._admit(principal)
        digest = sha256(raw).hexdigest() if idempotency_key else ""
        wish = Wish(principal.user_id, KIND, order.flow_id, idempotency_key, digest)
        order = msgspec.structs.replace(order, caller=msgspec.json.encode(principal))
        run, plan = await self._started(wish, order)
        return Execution(
            id=run.id,
            flow_id=order.flow_id,
            version=plan.flow.version,
            status=status_of(run.status),
            order=order,
            created_at=run.created_at,
            updated_at=run.created_at,
        )

    async def cancel(self, user_id: UUID, execution_id: UUID) -> None:
        """Stop it; to cancel one again changes nothing."""
        async with self._db.read() as session:
            if await ExecutionRepository(session).owned(user_id, execution_id) is None:
                raise NoSuchExecution(f"There is no execution {execution_id}.")
        try:
            run = await self._runs.cancel(user_id, execution_id)
        except NoSuchRun:
            raise NoSuchExecution(f"There is no execution {execution_id}.") from None
        if run.status != "cancelled":
            word = status_of(run.status)
            raise ExecutionNotRunning(f"This execution has {word} already.", status=word)

    async def _admit(self, principal: Principal) -> None:
        """Refuse who has nothing left to spend; what the nodes spend is metered call by call."""
        _, allowances = await self._tiers.own(principal)
        for one in allowances:
            if one.left > 0:
                continue
            if one.name == "budget":
                text = "The budget is spent; raise it, or wait until it begins anew."
                raise InsufficientCredits(text, period=one.period, holder=one.holder)
            if one.name == "rpm":
                text = f"{one.limit} requests a minute are allowed; try again in a moment."
                raise LimitReached(text, retry_after_s=AGAIN_S, limit=one.name, holder=one.holder)

    async def _started(self, wish: Wish, order: Order) -> tuple[Run, Plan]:
        """Start it with the plan that is remembered, if it is good still, else with a new one."""
        former = await self._flows.recall(wish.user_id, order.flow_id, order.version)
        if former is not None:
            with suppress(_PlanChanged):
                return await self._start(wish, Taken(order, former.plan), former), former.plan
        plan = await self._flows.plan(wish.user_id, order.flow_id, order.version)
        return await self._start(wish, Taken(order, plan)), plan

    async def _start(self, wish: Wish, taken: Taken, former: Planned | None = None) -> Run:
        run: Run | None = None
        try:
            async with self._db.begin(is_durable=True) as session:
                if former and not await self._flows.is_current(session, wish.user_id, former):
                    raise _PlanChanged
                run, is_new = await self._runs.start(session, wish)
                if is_new:
                    if run.status == "running":
                        # Its work begins when the loop turns next, and finds here what it is.
                        self._engine.expect(run.id, taken)
                    await ExecutionRepository(session).add(_values(run, wish.user_id, taken))
        except BaseException:
            if run is not None:
                self._engine.forget(run.id)
            raise
        return run


def _values(run: Run, user_id: UUID, taken: Taken) -> dict[str, object]:
    return {
        "id": run.id,
        "user_id": user_id,
        "flow_id": taken.order.flow_id,
        "version": taken.plan.flow.version,
        "definitions": {path: str(one) for path, one in taken.plan.ids.items()},
        "order": msgspec.json.encode(taken.order),
        "created_at": run.created_at,
        "updated_at": run.created_at,
    }
