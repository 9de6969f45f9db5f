"""Real databases, caches and buckets. Each server starts when the first test asks for it."""

import gc
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.kernel.settings import Secret
from app.settings import HouseSettings
from tests import services, tables

if TYPE_CHECKING:
    from app.adapters.blobs.s3 import S3Options


NEEDS = {"postgres_url": "needs_postgres", "valkey_url": "needs_redis", "s3_endpoint": "needs_s3"}

# Parameters of fixtures that choose between an embedded engine and a server.
SERVERS = {"postgres": "postgres_url", "redis": "valkey_url", "bucket": "s3_endpoint"}

# Those of a server.
GC_THRESHOLD = (50_000, 20, 20)


def pytest_configure(config: pytest.Config) -> None:
    """Keep our order of the files. Our longest ones have few tests, and would come last."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `just unit` can leave it out. CI runs everything.

    Several processes begin with the files of slow tests, so that the last ones are short.
    """
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        names |= {SERVERS[v] for v in parameters if isinstance(v, str) and v in SERVERS}
        for name in names & NEEDS.keys():
            item.add_marker(NEEDS[name])
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        counts = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path not in slow, -counts[item.path], item.path))


def pytest_collection_finish() -> None:
    """Look for cycles as seldom as a server does, and not in what was there before the tests.

    Thousands of tests, and every module, would be looked through again for a few new objects,
    which was a fifth of the work of some files.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    with services.postgres() as socket:
        yield socket


@pytest.fixture
async def postgres_url(request: pytest.FixtureRequest, postgres_socket: Path) -> AsyncIterator[str]:
    """A database of the test's own, as ``DATABASE_URL`` names it; empty, but for ``db``."""
    has_tables = "db" in request.fixturenames
    found = tables.shelf(postgres_socket).lent() if has_tables else tables.blank(postgres_socket)
    async with found as name:
        yield tables.url_of(postgres_socket, name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A database file that is not there yet, as SQLAlchemy names it."""
    return f"sqlite+insula:///{tmp_path / 'insula.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Run the test on both databases; the URL is one that ``Database`` takes."""
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
    if db.is_embedded:
        await tables.lay(database_url)
    yield db
    await db.close()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    """Every table, empty, on SQLite alone; what depends on the engine takes ``db``."""
    db = Database(sqlite_url, JobBook())
    await tables.lay(sqlite_url)
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
def tiny_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of 390 kB that has learnt two answers; see tests/fixtures/tiny_model.py.

    It learns for seconds, so the first process of this test run to need it shares it.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if hasattr(request.config, "workerinput") else own) / "shared-models"
    if not (shared / "tiny").exists():
        folder = tmp_path_factory.mktemp("models")
        script = Path(__file__).parent / "fixtures" / "tiny_model.py"
        subprocess.run([sys.executable, script, folder / "tiny"], check=True, timeout=120)
        # If another process was quicker, its model stays.
        with suppress(OSError):
            folder.rename(shared)
    return shared / "tiny"
