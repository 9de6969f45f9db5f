"""Checks the migrations on real databases, up, down and up again; writes new ones.

python scripts/migrations.py
python scripts/migrations.py --revision "add a column"
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

sys.path.insert(0, str(Path(__file__).parents[1]))

from app import schema
from app.asgi import MODULES  # noqa: F401 - importing the modules declares their tables
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from tests.services import postgres


async def check(url: str) -> None:
    """Go up, compare with the tables in the code, go down to nothing, and up again."""
    database = Database(url, JobBook())
    try:
        await schema.migrate(database.writer)
        if found := await schema.differences(database.writer):
            raise SystemExit(f"{database.writer.dialect.name}: not in a migration: {found}")
        await schema.downgrade(database.writer, "base")
        await schema.migrate(database.writer)
        at = await schema.current(database.writer)
        print(f"{database.writer.dialect.name}: up, down, up; at revision {at}")
    finally:
        await database.close()


async def write_revision(engine: AsyncEngine, message: str) -> None:
    """Compare a fresh, migrated database with the code and write the difference down."""
    versions = list((schema.MIGRATIONS / "versions").glob("[0-9]*.py"))
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    if versions:
        await schema.migrate(engine)

    def run(sync: Connection) -> Any:
        config.attributes["connection"] = sync
        number = f"{len(versions) + 1:04}"
        return command.revision(config, message=message, autogenerate=True, rev_id=number)

    async with engine.connect() as connection:
        await connection.run_sync(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revision", metavar="TEXT", help="write a migration")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sqlite = f"sqlite+insula:///{folder / 'check.db'}"
        if options.revision:
            database = Database(sqlite, JobBook())
            asyncio.run(write_revision(database.writer, options.revision))
            return
        asyncio.run(check(sqlite))
        socket = stack.enter_context(postgres())
        asyncio.run(check(f"postgresql+asyncpg://postgres:@/postgres?host={socket}"))


if __name__ == "__main__":
    main()
