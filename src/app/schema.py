"""The schema of the database: where it stands, and bringing it to where this version needs it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.kernel import log
from app.kernel.module import MountError

MIGRATIONS: Final = Path(__file__).parents[2] / "migrations"
LOCK_ID = 0x1451A


def head() -> str:
    """The newest revision, read from the file names, since Alembic costs a quarter of a second."""
    names = [path.name for path in (MIGRATIONS / "versions").glob("[0-9]*.py")]
    if not names:
        raise MountError(f"no migrations in {MIGRATIONS}; run Insula from its own folder")
    return max(names).partition("_")[0]


async def current(engine: AsyncEngine) -> str | None:
    """The revision the database is at; ``None`` for an empty one."""
    async with _connected(engine) as connection:
        if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
            return None
        rows = await connection.execute(text("select version_num from alembic_version"))
        return rows.scalar_one_or_none()


async def ensure(engine: AsyncEngine, *, may_migrate: bool) -> None:
    """Bring an embedded database up to date; refuse to start on a server's old one."""
    found = await current(engine)
    if found == head():
        return
    if not may_migrate:
        state = f"at revision {found}" if found else "empty"
        raise MountError(
            f"the database is {state} and this version needs {head()}: run `insula migrate` first"
        )
    await migrate(engine)


async def migrate(engine: AsyncEngine, revision: str = "head") -> None:
    """Move up to ``revision``, one transaction a migration; two processes take turns."""
    await _run(engine, lambda command, config: command.upgrade(config, revision))


async def downgrade(engine: AsyncEngine, revision: str) -> None:
    await _run(engine, lambda command, config: command.downgrade(config, revision))


async def differences(engine: AsyncEngine) -> list[Any]:
    """What the tables in the code have and the database has not, and the reverse."""
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 - commands only
    from alembic.migration import MigrationContext  # noqa: PLC0415 - commands only

    from app.kernel.db import Table  # noqa: PLC0415 - commands only

    def compare(sync: Connection) -> list[Any]:
        context = MigrationContext.configure(sync, opts={"compare_type": False})
        return list(compare_metadata(context, Table.metadata))

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


async def _run(engine: AsyncEngine, verb: Callable[[Any, Any], None]) -> None:
    from alembic import command  # noqa: PLC0415 - most starts find nothing to migrate
    from alembic.config import Config  # noqa: PLC0415 - most starts find nothing to migrate

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def run(sync: Connection) -> None:
        config.attributes["connection"] = sync
        verb(command, config)

    async with _connected(engine) as connection:
        await _take_turns(connection, "lock")
        try:
            await connection.run_sync(run)
        finally:
            await _take_turns(connection, "unlock")


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Connect, or say in one line why not."""
    try:
        connection = await engine.connect()
    except (OSError, SQLAlchemyError, TimeoutError) as error:
        reason = str(getattr(error, "orig", None) or error) or type(error).__name__
        raise MountError(f"no connection to the database: {log.mask(reason)}") from None
    try:
        yield connection
    finally:
        await connection.close()


async def _take_turns(connection: Any, verb: str) -> None:
    """Hold PostgreSQL's advisory lock of this session; SQLite's writer is alone anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"select pg_advisory_{verb}({LOCK_ID})"))
        await connection.commit()
