"""Executions of several processes of one installation, each of which may die."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.kernel.keys import AesGcmSeal, Keyring
from app.modules.auth.api import Principal
from app.modules.flows.domain.definitions import Flow
from app.modules.flows.domain.executions import FINAL, Order
from app.modules.flows.domain.views import Seen
from app.modules.flows.service.agents import Agents
from app.modules.flows.service.engine import Engine
from app.modules.flows.service.executions import Executions
from app.modules.flows.service.flows import Flows
from app.modules.flows.service.places import Places
from app.modules.flows.service.views import Views
from app.modules.flows.service.works import AgentWork, CodeWork, LlmWork
from tests.fakes.agents import FakeOutlet
from tests.fakes.clock import FakeClock
from tests.modules.runs import works
from tests.mortals import Death, Fate, MortalDatabase
from tests.waiting import until

CALLER = Principal(
    user_id=works.ANNA,
    kind="key",
    credential_id=UUID(int=9),
    role="owner",
    scopes=frozenset({"full"}),
)


class NoFiles:
    """The same answer each time: nothing has changed."""

    def __init__(self) -> None:
        self._nothing: Mapping[str, Flow] = {}

    async def read(self) -> Mapping[str, Flow]:
        return self._nothing


class NoTiers:
    async def tier_of(self, principal: Principal) -> None:
        return None

    async def own(self, principal: Principal) -> tuple[None, list[Any]]:
        return None, []


class Process:
    """Flows as one process has them, which dies at the so many-th step."""

    def __init__(self, db: Database, clock: FakeClock, fate: Fate) -> None:
        self.fate = fate
        self.outlet = FakeOutlet(fate.step)
        self.db: Any = MortalDatabase(db, fate)
        self.cache = MemoryCache()
        seal = AesGcmSeal(Keyring(["m" * 32]), "flows-sealing")
        self.agents = Agents(self.db, seal, self.outlet, clock, every_s=3600)
        self.flows = Flows(self.db, NoFiles(), self.agents)
        self.engine = Engine(
            self.db,
            clock,
            self.flows,
            {"agent": AgentWork(self.agents), "llm": LlmWork(None), "code": CodeWork(None)},
            Places(16),
            self.cache,
        )

    def begin(self, runs: Any) -> None:
        self.executions = Executions(self.db, runs.runs, self.flows, self.engine, NoTiers())
        self.views = Views(self.db, runs.runs, runs.runs, self.flows)

    async def start(self, flow_id: str, **given: Any) -> UUID:
        order = Order(flow_id, given, timeout_s=86_400)
        return (await self.executions.start(CALLER, order, None)).id

    async def see(self, execution_id: UUID) -> Seen:
        return await self.views.see(works.ANNA, execution_id)

    async def ended(self, execution_id: UUID) -> Seen:
        async def found() -> Seen | None:
            seen = await self.see(execution_id)
            return seen if seen.execution.status in FINAL else None

        return await until(found)


@asynccontextmanager
async def opened(
    db: Database, clock: FakeClock, fate: Fate | None = None
) -> AsyncIterator[Process]:
    process = Process(db, clock, fate or Fate())
    with suppress(Death):
        async with works.opened(
            process.db, process.cache, process.engine.kind, clock=clock
        ) as runs:
            process.begin(runs)
            with suppress(Death):
                yield process
