"""Migrations: each is one transaction, on both databases."""

from pathlib import Path

import pytest
from sqlalchemy import inspect

from app import schema
from app.kernel.db import Database
from app.kernel.jobs import JobBook

BROKEN = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table("half_way", sa.Column("id", sa.Integer(), primary_key=True))
    raise RuntimeError("on the way")


def downgrade() -> None:
    op.drop_table("half_way")
"""


@pytest.fixture
async def database(database_url):
    database = Database(database_url, JobBook())
    yield database
    await database.close()


class TestMigrate:
    async def test_brings_an_empty_database_to_what_the_code_says(self, database):
        await schema.migrate(database.writer)

        assert await schema.current(database.writer) == schema.head()
        assert await schema.differences(database.writer) == []

    async def test_goes_down_to_nothing(self, database):
        await schema.migrate(database.writer)

        await schema.downgrade(database.writer, "base")

        assert await schema.current(database.writer) is None

    async def test_a_migration_that_fails_half_way_leaves_nothing_behind(
        self, database, tmp_path: Path, monkeypatch
    ):
        copy = tmp_path / "migrations"
        (copy / "versions").mkdir(parents=True)
        for path in [schema.MIGRATIONS / "env.py", *schema.MIGRATIONS.glob("versions/0001*.py")]:
            target = copy / path.relative_to(schema.MIGRATIONS)
            target.write_text(path.read_text())
        (copy / "versions/0002_broken.py").write_text(BROKEN)
        monkeypatch.setattr(schema, "MIGRATIONS", copy)

        with pytest.raises(RuntimeError, match="on the way"):
            await schema.migrate(database.writer)

        async with database.writer.connect() as connection:
            has_table = await connection.run_sync(lambda sync: inspect(sync).has_table("half_way"))
        assert not has_table
        assert await schema.current(database.writer) == "0001"
