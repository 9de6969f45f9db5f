"""The module auth, open, on a clock that stands still; and the same behind HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.keys import Keyring
from app.modules.auth.module import AuthModule
from tests.fakes.clock import FakeClock
from tests.modules.auth import people
from tests.modules.auth.people import BOOTSTRAP, SECRET, make_kit, served


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys() -> Keyring:
    return Keyring([SECRET])


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache()


@pytest.fixture
async def auth(sqlite, cache, keys, clock) -> AsyncIterator[AuthModule]:
    """The module as the house opens it, on SQLite."""
    async with people.opened(make_kit(sqlite, cache, keys, clock)) as module:
        yield module


@pytest.fixture
async def client(sqlite, cache, keys, clock) -> AsyncIterator[httpx.AsyncClient]:
    """The module behind HTTP, with a client that has no key."""
    async with served(make_kit(sqlite, cache, keys, clock)) as found:
        yield found


@pytest.fixture
def owner() -> dict[str, str]:
    return {"authorization": f"Bearer {BOOTSTRAP}"}
