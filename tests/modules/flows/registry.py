"""Agents of one process, spoken to over HTTP, and the users that they belong to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import app.modules.runs.models  # noqa: F401 - tables of flows refer to it
from app.kernel.db import Database, uuid7
from app.kernel.keys import AesGcmSeal, Keyring
from app.modules.auth.api import Principal
from app.modules.auth.models import UserRow
from app.modules.flows.adapters.agent_http import AgentHttp
from app.modules.flows.domain.agents import Registration
from app.modules.flows.models import AgentRow
from app.modules.flows.repository.agents import AgentRepository
from app.modules.flows.service.agents import Agents
from tests.fakes.clock import FakeClock

SECRET, NEW_SECRET = "o" * 32, "n" * 32
TOKEN = "token-of-the-agent"
PUBLIC = "https://agents.example.org/helper"
EVERY_S = 30.0


def somebody(role: str = "member") -> Principal:
    return Principal(
        user_id=uuid7(),
        kind="key",
        credential_id=uuid7(),
        role=role,
        scopes=frozenset({"full"}),
    )


OWNER, ANNA, BERT = somebody("owner"), somebody(), somebody()


def said(agent_id: str = "helper", endpoint: str = PUBLIC, **more: Any) -> Registration:
    return Registration(**{"agent_id": agent_id, "name": "Helper", "endpoint": endpoint, **more})


class Registry:
    """``agents`` as one process has them. No look at their health is left to chance."""

    def __init__(self, db: Database, clock: FakeClock, *masters: str) -> None:
        self.db = db
        self.clock = clock
        self.outlet = AgentHttp(1024 * 1024)
        seal = AesGcmSeal(Keyring(masters or (SECRET,)), "flows-sealing")
        self.agents = Agents(db, seal, self.outlet, clock, every_s=EVERY_S, draw=lambda: 0.5)

    async def row(self, agent_id: str = "helper", user_id: UUID = OWNER.user_id) -> AgentRow:
        async with self.db.read() as session:
            (row,) = await AgentRepository(session).find(user_id, [agent_id])
        return row

    async def state(self, agent_id: str = "helper") -> str:
        return (await self.row(agent_id)).state


@asynccontextmanager
async def opened(db: Database, clock: FakeClock, *masters: str) -> AsyncIterator[Registry]:
    registry = Registry(db, clock, *masters)
    try:
        yield registry
    finally:
        await registry.outlet.close()


async def people(db: Database) -> None:
    async with db.begin() as session:
        for principal in (OWNER, ANNA, BERT):
            user = UserRow(
                id=principal.user_id,
                email=f"{principal.user_id}@example.org",
                role=principal.role,
                credential_kind="password",
                credential_hash=None,
                kdf_salt="salt",
            )
            session.add(user)
