"""Storage in a whole house that a file's tests share, and alone on both databases."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from app.kernel.db import Database
from tests.modules.storage.desks import Desk, Shelf, open_desk, open_shelf
from tests.modules.storage.shipments import Yard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """The owner of a house on SQLite, whose records are those of all tests of the file.

    For tests that are marked ``asyncio(loop_scope="module")``.
    """
    async with open_desk(tmp_path_factory.mktemp("house") / "data") as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(desk: Desk) -> Desk:
    """Somebody in the same house who has nothing yet, and whom nothing limits."""
    return await desk.member(uuid4().hex, "team")


@pytest_asyncio.fixture(loop_scope="module")
async def yard(fresh: Desk) -> Yard:
    """The same house, where that somebody sends."""
    return Yard(fresh)


@pytest.fixture
async def shelf(db: Database, tmp_path: Path) -> AsyncIterator[Shelf]:
    """Storage alone, on both databases."""
    async with open_shelf(db, tmp_path) as found:
        yield found
