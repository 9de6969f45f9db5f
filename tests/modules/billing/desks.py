"""Where the tests of billing happen: a meter and what belongs to it, alone or behind HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
from litestar.testing import AsyncTestClient
from sqlalchemy import func, select

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database, Table
from app.kernel.jobs import JobBook
from app.kernel.keys import Keyring
from app.kernel.module import House, Kit
from app.kernel.mount import Block, mount
from app.kernel.ports import utc_now
from app.modules.auth.models import ApiKeyRow, UserRow
from app.modules.auth.module import AuthModule
from app.modules.billing.adapters.journal import FileJournal
from app.modules.billing.adapters.memory import MemoryHolds
from app.modules.billing.domain.limits import Limits, SubjectKind
from app.modules.billing.models import UsageRow
from app.modules.billing.module import BillingModule
from app.modules.billing.ports import Holds
from app.modules.billing.repository.limits import LimitsRepository
from app.modules.billing.service.limits import LimitService
from app.modules.billing.service.meter import UsageMeter
from app.modules.billing.service.reports import UsageReports
from app.modules.billing.service.rules import Rules
from app.modules.billing.service.store import UsageStore
from app.modules.health.module import HealthModule
from tests import tables
from tests.modules.auth.people import BOOTSTRAP, SECRET, environ
from tests.modules.billing.calls import KEY, OTHER, USER, key_of
from tests.waiting import until

OWNER = {"authorization": f"Bearer {BOOTSTRAP}"}


class Desk(msgspec.Struct):
    """One process' billing."""

    db: Database
    store: UsageStore
    rules: Rules
    holds: Holds
    meter: UsageMeter
    limits: LimitService
    reports: UsageReports


class Office(msgspec.Struct):
    """Billing behind HTTP, with a client that has no key."""

    client: httpx.AsyncClient
    billing: BillingModule

    async def sign_up(self, name: str) -> dict[str, str]:
        body = {"email": f"{name}@example.org", "password": "correct horse battery"}
        answer = await self.client.post("/api/v1/auth/register", json=body)
        return {"authorization": f"Bearer {answer.json()['access_token']}"}

    async def make_key(self, headers: dict[str, str], *scopes: str) -> tuple[str, dict[str, str]]:
        """The id of a new key, and the headers that use it."""
        body = {"name": "key", "scopes": scopes or ["full"]}
        answer = await self.client.post("/api/v1/auth/api-keys", json=body, headers=headers)
        made = answer.json()
        return made["api_key"]["id"], {"authorization": f"Bearer {made['key']}"}

    async def user_id(self, headers: dict[str, str]) -> str:
        answer = await self.client.get("/api/v1/auth/me", headers=headers)
        return answer.json()["id"]


def make_desk(db: Any, journal: FileJournal, cache: MemoryCache, holds: Any = None) -> Desk:
    near = MemoryHolds() if holds is None else None
    holds = holds or near
    store = UsageStore(db, journal, holds, utc_now)
    rules = Rules(db, cache)
    meter = UsageMeter(store, rules, holds, near)
    limits = LimitService(db, rules, meter, utc_now)
    return Desk(db, store, rules, holds, meter, limits, UsageReports(db, store))


@asynccontextmanager
async def opened(
    db: Database, journal: FileJournal, cache: MemoryCache, holds: Any = None
) -> AsyncIterator[Desk]:
    """A desk that hears news, and whose journal is stored only when a test says so."""
    desk = make_desk(db, journal, cache, holds)
    async with following(desk.rules):
        yield desk


@asynccontextmanager
async def following(rules: Rules, *, is_heard: bool = True) -> AsyncIterator[None]:
    """Let these rules hear the news of others."""
    nobody = key_of(UUID(int=99), UUID(int=99))

    async def is_remembered() -> bool:
        await rules.of(nobody)
        return rules.recall(nobody.credential_id) is not None

    news = asyncio.create_task(rules.follow())
    if is_heard:
        await until(is_remembered)
    yield
    news.cancel()
    with suppress(asyncio.CancelledError):
        await news


@asynccontextmanager
async def served(url: str, data: Path) -> AsyncIterator[Office]:
    """Mount health, auth and billing as the composition root does."""
    db = Database(url, JobBook())
    await tables.lay(url)
    house = House(version="0", data_dir=str(data), is_loopback=True)
    kit = Kit(db, MemoryCache(), None, Keyring([SECRET]), house)
    block = Block((HealthModule, AuthModule, BillingModule), environ(), kit, JobBook())

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with block.opened():
            yield

    app = mount(block, lifespan, None, None)
    async with AsyncTestClient(app, base_url="http://127.0.0.1") as client:
        billing = next(m for m in block.modules if isinstance(m, BillingModule))
        yield Office(client, billing)
    await db.close()


async def people(db: Database) -> None:
    """The user of ``calls`` with its key, and another user."""
    async with db.begin() as session:
        for user_id, name in ((USER, "anna"), (OTHER, "otto")):
            session.add(_user(user_id, name))
        await session.flush()
        session.add(_key(KEY, USER))


async def put_limits(
    desk: Desk, kind: SubjectKind, subject_id: UUID, limits: Limits | None = None, **wanted: Any
) -> None:
    async with desk.db.begin() as session:
        await LimitsRepository(session).put(kind, subject_id, limits or Limits(**wanted))
    await desk.rules.forget(subject_id)
    # The news comes back to who has sent it.
    for _ in range(5):
        await asyncio.sleep(0)


async def count(db: Database, table: type[Table] = UsageRow) -> int:
    async with db.read() as session:
        return await session.scalar(select(func.count()).select_from(table))


def _user(user_id: UUID, name: str) -> UserRow:
    return UserRow(
        id=user_id,
        email=f"{name}@example.org",
        role="member",
        credential_kind="password",
        credential_hash=None,
        kdf_salt="salt",
    )


def _key(key_id: UUID, user_id: UUID) -> ApiKeyRow:
    return ApiKeyRow(
        id=key_id,
        user_id=user_id,
        public_id=key_id.hex,
        token_hash=key_id.hex,
        name="key",
        scopes=["full"],
        models=None,
    )
