"""Who the tests of auth are about, and the house they are in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from litestar.testing import AsyncTestClient
from sqlalchemy import func, select

from app.kernel.errors import Unavailable
from app.kernel.jobs import JobBook
from app.kernel.keys import Keyring
from app.kernel.module import House, Kit
from app.kernel.mount import Block, mount
from app.kernel.settings import load
from app.modules.auth.api import Principal
from app.modules.auth.domain import (
    Credential,
    Device,
    KeyTerms,
    TokenPair,
    Verdict,
    credential_of,
)
from app.modules.auth.models import EventRow
from app.modules.auth.module import AuthModule
from app.modules.auth.settings import AuthSettings
from app.modules.health.api import MetricsPage
from app.modules.health.module import HealthModule

SECRET = "a master secret of the tests, 0123456789"
BOOTSTRAP = "bootstrap-of-the-tests-0123456789abc"

ANNA = "anna@example.org"
PASSWORD = credential_of("correct horse battery", None)
OTHER = credential_of("a different password", None)
LAPTOP = Device("laptop", "203.0.113.0/24")
PHONE = Device("phone", "198.51.100.0/24")
NOWHERE = "unknown"
EVERYTHING = KeyTerms("all", frozenset({"full"}), None, None)


class FixedPage:
    """A page of metrics with one number."""

    media_type = "text/plain; version=0.0.4"

    def render(self) -> bytes:
        return b"answer 42\n"


def environ(**changes: str) -> dict[str, str]:
    """The cheapest password hashes that are allowed, and a known key of the owner."""
    return {
        "APP_BOOTSTRAP_KEY": BOOTSTRAP,
        "AUTH_ARGON_MEMORY_KIB": "19456",
        "AUTH_ARGON_ITERATIONS": "2",
        "AUTH_ARGON_PARALLELISM": "1",
        **changes,
    }


def make_kit(db: Any, cache: Any, keys: Keyring, clock: Any, *, is_loopback: bool = True) -> Kit:
    house = House(version="0", data_dir="", is_loopback=is_loopback)
    kit = Kit(db, cache, None, keys, house, clock)
    kit.share({MetricsPage: FixedPage()})
    return kit


@asynccontextmanager
async def opened(kit: Kit, **changes: str) -> AsyncIterator[AuthModule]:
    module = AuthModule(load(AuthSettings, environ(**changes)), kit)
    await module.open()
    try:
        yield module
    finally:
        await module.close()


@asynccontextmanager
async def served(
    kit: Kit, *more: Any, address: str = "93.184.216.34", **changes: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Mount health, auth and ``more`` as the composition root does; call from ``address``."""
    block = Block((HealthModule, AuthModule), environ(**changes), kit, JobBook())

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with block.opened():
            yield

    app = mount(block, lifespan, None, None)
    for handler in more:
        app.register(handler)

    async def from_address(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"client": (address, 50_000)}, receive, send)

    async with AsyncTestClient(from_address, base_url="http://127.0.0.1") as client:
        yield client


async def register(
    auth: AuthModule, mail: str = ANNA, credential: Credential = PASSWORD, keyring=None
) -> TokenPair:
    return await auth.accounts.register(mail, credential, keyring, LAPTOP)


async def who(auth: AuthModule, pair: TokenPair) -> Principal:
    return await auth.authenticator.authenticate(pair.access_token.encode())


def terms(*scopes: str, **more: Any) -> KeyTerms:
    values = {"name": "key", "scopes": frozenset(scopes), "models": None, "expires_at": None}
    return KeyTerms(**values | more)


async def events(db) -> list[str]:
    """The audit trail, oldest first."""
    async with db.read() as session:
        return list(await session.scalars(select(EventRow.kind).order_by(EventRow.id)))


async def count(db, table, *conditions) -> int:
    async with db.read() as session:
        return await session.scalar(select(func.count()).select_from(table).where(*conditions))


class FakeHasher:
    """Knows every secret by heart, and waits where it is told to."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.is_waiting = False

    async def hash(self, secret: bytes) -> str:
        await self._wait()
        return secret.hex()

    async def verify(self, stored: str | None, secret: bytes) -> Verdict:
        await self._wait()
        return Verdict.RIGHT if stored == secret.hex() else Verdict.WRONG

    def close(self) -> None: ...

    async def _wait(self) -> None:
        self.is_waiting = not self.may_go_on.is_set()
        await self.may_go_on.wait()


class DeafCache:
    """Hears news only while it is told to, and says nothing to anybody."""

    def __init__(self) -> None:
        self.may_hear = asyncio.Event()
        self.loses = asyncio.Event()

    async def publish(self, topic: str, message: str) -> None:
        raise Unavailable("deaf and dumb")

    async def listen(self, topic: str) -> AsyncIterator[str]:
        await self.may_hear.wait()
        yield ""
        await self.loses.wait()
        self.may_hear.clear()
        raise Unavailable("news was lost")
