"""Does executions: from the run that somebody has started to its end."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.ports import Cache, Clock
from app.modules.auth.api import Principal
from app.modules.flows.domain.definitions import NodeKind, Plan
from app.modules.flows.domain.executions import DEFAULT_TIMEOUT_S, KIND, NodeState, Order
from app.modules.flows.repository.executions import ExecutionRepository, state_of
from app.modules.flows.service.flows import Flows
from app.modules.flows.service.journal import Journal
from app.modules.flows.service.places import Places
from app.modules.flows.service.walk import NodeFailed, Setting, Walk
from app.modules.flows.service.works import Work
from app.modules.runs.api import Ended, Kind, Turn

TEXT_LIMIT_CHARS: Final = 2000
PARALLEL: Final = 1024


class Taken(msgspec.Struct, frozen=True):
    """What an execution was given, and what it runs."""

    order: Order
    plan: Plan


class Verdict(msgspec.Struct, frozen=True):
    """How an execution ended. ``output`` is JSON."""

    status: Literal["completed", "failed", "timed_out"]
    output: bytes | None = None
    code: str = ""
    text: str = ""


class Engine:
    """``work`` is what the house runs. What was taken on in this process need not be read."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        flows: Flows,
        works: Mapping[NodeKind, Work],
        places: Places,
        cache: Cache,
    ) -> None:
        self._db = db
        self._clock = clock
        self._flows = flows
        self._works = works
        self._places = places
        self._cache = cache
        self._taken: dict[UUID, Taken] = {}

    @property
    def kind(self) -> Kind:
        """Executions, as runs. A call that may not be made twice waits until the disk knows of it:
        after a power cut it would be made again.
        """
        return Kind(KIND, self.work, recovery="continue", parallel=PARALLEL, is_durable=True)

    def expect(self, run_id: UUID, taken: Taken) -> None:
        """This run is about to begin here."""
        self._taken[run_id] = taken

    def forget(self, run_id: UUID) -> None:
        """It begins elsewhere, or never."""
        self._taken.pop(run_id, None)

    async def work(self, turn: Turn) -> Ended:
        run = turn.run
        taken = self._taken.pop(run.id, None) or await self._read(run.id)
        known = await self._known(run.id) if run.fence > 1 else {}
        journal = Journal(turn)
        setting = Setting(
            execution_id=run.id,
            plan=taken.plan,
            order=taken.order,
            principal=msgspec.json.decode(taken.order.caller, type=Principal),
            journal=journal,
            works=self._works,
            places=self._places,
            cache=self._cache,
            clock=self._clock,
            known=known,
            kept=[0],
        )
        began_at = run.started_at or run.created_at
        verdict = await self._verdict(setting, began_at)
        return self._ended(journal, run.id, verdict, began_at)

    async def _verdict(self, setting: Setting, began_at: datetime) -> Verdict:
        order = setting.order
        limit_s = DEFAULT_TIMEOUT_S if order.timeout_s is None else order.timeout_s
        gone_s = (self._clock() - began_at).total_seconds()
        try:
            async with asyncio.timeout(max(0.0, limit_s - gone_s)) as clock:
                output = await Walk(setting, setting.plan.flow, order.input_data).run()
        except NodeFailed as error:
            return Verdict("failed", code="node_failed", text=str(error)[:TEXT_LIMIT_CHARS])
        except TimeoutError:
            if not clock.expired():
                raise
            text = f"The execution took longer than {limit_s:g} s."
            return Verdict("timed_out", code="timeout", text=text)
        return Verdict("completed", msgspec.json.encode(output))

    def _ended(self, journal: Journal, run_id: UUID, verdict: Verdict, began_at: datetime) -> Ended:
        news, write_rows = journal.rest()
        now = self._clock()
        took_ms = round((now - began_at).total_seconds() * 1000)

        async def write(session: AsyncSession) -> None:
            await write_rows(session)
            await ExecutionRepository(session).end(run_id, verdict.output, took_ms, now)

        return Ended(verdict.status, verdict.code, verdict.text, news, write)

    async def _read(self, run_id: UUID) -> Taken:
        async with self._db.read() as session:
            row = (await ExecutionRepository(session).find([run_id]))[run_id]
        ids = {path: UUID(text) for path, text in row.definitions.items()}
        return Taken(msgspec.json.decode(row.order, type=Order), await self._flows.load(ids))

    async def _known(self, run_id: UUID) -> dict[str, NodeState]:
        """How far each node was when the process was gone that had begun it."""
        async with self._db.read() as session:
            rows = await ExecutionRepository(session).nodes(run_id)
        return {row.node_id: state_of(row) for row in rows}
