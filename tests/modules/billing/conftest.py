"""The module billing: a meter and what belongs to it, and the whole of it behind HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.modules.billing.adapters.journal import FileJournal
from tests.modules.billing import desks
from tests.modules.billing.desks import Desk, Office


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where ``journal`` is."""
    return tmp_path / "usage"


@pytest.fixture
def journal(folder: Path) -> FileJournal:
    return FileJournal(folder)


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache()


@pytest.fixture
async def desk(sqlite: Database, journal: FileJournal, cache: MemoryCache) -> AsyncIterator[Desk]:
    """A meter that hears news, with holds in its own process, on SQLite."""
    async with desks.opened(sqlite, journal, cache) as found:
        yield found


@pytest.fixture
async def office(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    """Health, auth and billing behind HTTP, on SQLite."""
    async with desks.served(sqlite_url, tmp_path) as found:
        yield found
