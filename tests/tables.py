"""Databases with every table that has been imported, empty: made once, then copied.

To make that many tables takes longer than most tests do.
"""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import make_url

from app.kernel.db import Database, Table
from app.kernel.jobs import JobBook

if TYPE_CHECKING:
    import asyncpg

# By the tables that they have: more may be imported later.
_files: dict[frozenset[str], Path] = {}
_names: dict[tuple[Path, frozenset[str]], str] = {}


async def lay(url: str) -> None:
    """Put the tables into SQLite's file, which is not there yet."""
    tables = frozenset(Table.metadata.tables)
    if tables not in _files:
        folder = Path(tempfile.mkdtemp(prefix="insula-tables-"))
        atexit.register(shutil.rmtree, folder)
        await _create(f"sqlite+insula:///{folder / 'insula.db'}")
        _files[tables] = folder / "insula.db"
    shutil.copyfile(_files[tables], str(make_url(url).database))


async def template(admin: "asyncpg.Connection", socket: Path) -> str:
    """Name the database of this PostgreSQL that has the tables; nobody is connected to it."""
    tables = frozenset(Table.metadata.tables)
    if (socket, tables) not in _names:
        name = f"tables_{uuid4().hex}"
        await admin.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        await _create(f"postgresql+asyncpg://postgres:@/{name}?host={socket}")
        _names[socket, tables] = name
    return _names[socket, tables]


async def _create(url: str) -> None:
    db = Database(url, JobBook())
    async with db.writer.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await db.close()
