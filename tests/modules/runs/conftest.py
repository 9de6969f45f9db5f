"""Runs on both databases, with users, and a cache that several processes of a test share."""

import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from tests.modules.runs import works


@pytest.fixture
def cache() -> MemoryCache:
    return MemoryCache()


@pytest.fixture
async def house(db: Database) -> Database:
    """A database with the users of ``works``."""
    await works.people(db)
    return db
