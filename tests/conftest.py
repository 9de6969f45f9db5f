"""Real databases, caches and buckets. Each server starts when the first test asks for it."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from app.kernel.db import Database, Table
from app.kernel.jobs import JobBook
from app.kernel.settings import Secret
from app.settings import HouseSettings
from tests import services

if TYPE_CHECKING:
    from app.adapters.blobs.s3 import S3Options


NEEDS = {"postgres_url": "needs_postgres", "valkey_url": "needs_redis", "s3_endpoint": "needs_s3"}

# Parameters of fixtures that choose between an embedded engine and a server.
SERVERS = {"postgres": "postgres_url", "redis": "valkey_url", "bucket": "s3_endpoint"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `just unit` can leave it out. CI runs everything."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        names |= {SERVERS[v] for v in parameters if isinstance(v, str) and v in SERVERS}
        for name in names & NEEDS.keys():
            item.add_marker(NEEDS[name])


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    with services.postgres() as socket:
        yield socket


@pytest.fixture
async def postgres_url(postgres_socket: Path) -> AsyncIterator[str]:
    """A fresh database, as ``DATABASE_URL`` names it."""
    import asyncpg

    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(host=str(postgres_socket), user="postgres", database="postgres")
    await admin.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
    yield f"postgresql://postgres:@/{name}?host={postgres_socket}"
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A database file that is not there yet, as SQLAlchemy names it."""
    return f"sqlite+insula:///{tmp_path / 'insula.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases, each empty; the URL is one that ``Database`` takes."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    given = Secret(request.getfixturevalue("postgres_url"))
    return HouseSettings(database_url=given).sqlalchemy_url


@pytest.fixture
def book() -> JobBook:
    """The jobs of ``db``; tests add theirs."""
    return JobBook()


@pytest.fixture
async def db(database_url: str, book: JobBook) -> AsyncIterator[Database]:
    """Every table that has been imported, empty, on both databases."""
    db = Database(database_url, book)
    async with db.writer.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    yield db
    await db.close()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with services.valkey() as server:
        yield server.connection_url


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """An empty Redis, which is Valkey."""
    import redis

    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    return valkey_url


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with services.s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str) -> "S3Options":
    """A fresh bucket."""
    return services.fresh_bucket(s3_endpoint)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of 390 kB that has learnt two answers; see tests/fixtures/tiny_model.py."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    script = Path(__file__).parent / "fixtures" / "tiny_model.py"
    subprocess.run([sys.executable, script, folder], check=True, timeout=120)
    return folder
