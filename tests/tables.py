"""Databases with every table that has been imported, empty: made once, then copied or emptied.

To make that many tables takes longer than most tests do; on some file systems, so does a copy of
PostgreSQL's many files.
"""

import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import make_url

from app.kernel.db import Database, Table
from app.kernel.jobs import JobBook

if TYPE_CHECKING:
    import asyncpg

# One that has grown further is not kept for the next test.
KEPT_BYTES = 32 * 2**20

# Whatever a test created, altered or granted shows here.
SHAPE = """
SELECT md5(string_agg(concat_ws(' ', kind, oid, changed), ',' ORDER BY kind, oid)) FROM (
    SELECT 'relation' AS kind, oid, xmin::text AS changed FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT 'routine', oid, xmin::text FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT 'schema', oid, xmin::text FROM pg_namespace
    UNION ALL SELECT 'extension', oid, xmin::text FROM pg_extension
) AS made
"""
# Ends what a test has left connected.
LEFT = """
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

# In no order of theirs: rows that refer to others need not go first.
EMPTIED = """
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND oid >= 16384 LOOP
        EXECUTE 'DELETE FROM ' || name;
    END LOOP;
END $$
"""
SIZE = "SELECT pg_database_size(current_database())"

# By the tables that they have: more may be imported later.
_files: dict[frozenset[str], Path] = {}
_shelves: dict[tuple[Path, frozenset[str]], "Shelf"] = {}


async def lay(url: str) -> None:
    """Put the tables into SQLite's file, which is not there yet."""
    tables = frozenset(Table.metadata.tables)
    if tables not in _files:
        folder = Path(tempfile.mkdtemp(prefix="insula-tables-"))
        atexit.register(shutil.rmtree, folder)
        await _create(f"sqlite+insula:///{folder / 'insula.db'}")
        _files[tables] = folder / "insula.db"
    shutil.copyfile(_files[tables], str(make_url(url).database))


class Shelf:
    """Databases of one PostgreSQL that have the tables, and that no test uses now."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._source = ""
        self._shape = ""
        self._spare: list[str] = []

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[str]:
        """Name an empty one, which is the caller's alone."""
        if not self._source:
            await self._prepare()
        name = self._spare.pop() if self._spare else await _made(self._socket, self._source)
        yield name
        if await self._is_emptied(name):
            self._spare.append(name)
        else:
            await _drop(self._socket, name)

    async def _prepare(self) -> None:
        """Make the one that others are copies of, to which nobody is connected then."""
        name = await _made(self._socket)
        await _create(f"postgresql+asyncpg://postgres:@/{name}?host={self._socket}")
        async with _connection(self._socket, name) as link:
            self._shape = await link.fetchval(SHAPE)
        self._source = name

    async def _is_emptied(self, name: str) -> bool:
        """Delete all rows; or say that more has changed, or much."""
        async with _connection(self._socket, name) as link:
            await link.execute(LEFT)
            if await link.fetchval(SHAPE) != self._shape or await link.fetchval(SIZE) > KEPT_BYTES:
                return False
            await link.execute(EMPTIED)
        return True


def shelf(socket: Path) -> Shelf:
    """That of this PostgreSQL, for the tables that are imported now."""
    key = socket, frozenset(Table.metadata.tables)
    return _shelves.setdefault(key, Shelf(socket))


@asynccontextmanager
async def blank(socket: Path) -> AsyncIterator[str]:
    """Name a database of this PostgreSQL that has no tables."""
    name = await _made(socket)
    yield name
    await _drop(socket, name)


def url_of(socket: Path, name: str) -> str:
    """A database of this PostgreSQL, as ``DATABASE_URL`` names it."""
    return f"postgresql://postgres:@/{name}?host={socket}"


async def _made(socket: Path, source: str = "template1") -> str:
    name = f"test_{uuid4().hex}"
    async with _connection(socket) as admin:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy")
    return name


async def _drop(socket: Path, name: str) -> None:
    async with _connection(socket) as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def _connection(
    socket: Path, database: str = "postgres"
) -> AsyncIterator["asyncpg.Connection"]:
    """As the administrator of this PostgreSQL."""
    import asyncpg

    link = await asyncpg.connect(host=str(socket), user="postgres", database=database)
    try:
        yield link
    finally:
        await link.close()


async def _create(url: str) -> None:
    db = Database(url, JobBook())
    async with db.writer.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await db.close()
