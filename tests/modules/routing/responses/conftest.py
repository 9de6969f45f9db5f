"""Conversations on SQLite, on a clock that stands still."""

from collections.abc import AsyncIterator

import pytest

from app.kernel.db import Database, Table
from app.kernel.jobs import JobBook
from app.kernel.keys import Keyring
from app.modules.routing.adapters.seals import AesGcmSeal
from app.modules.routing.service.conversations import Conversations
from tests.fakes.clock import FakeClock

SECRET = "a master secret of the tests, 0123456789"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    """Every table, empty, on SQLite alone."""
    db = Database(sqlite_url, JobBook())
    async with db.writer.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    yield db
    await db.close()


@pytest.fixture
def conversations(sqlite: Database, clock: FakeClock) -> Conversations:
    return Conversations(sqlite, AesGcmSeal(Keyring([SECRET])), clock)
