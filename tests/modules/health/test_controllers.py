"""HTTP of health, and the page of metrics that it exports."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from prometheus_client import Counter

from app.adapters.cache.memory import MemoryCache
from app.adapters.surreal import SurrealSettings, open_surreal
from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.jobs import JobBook
from app.kernel.keys import Keyring
from app.kernel.module import Check, House, Kit
from app.kernel.mount import Block, mount
from app.kernel.settings import SettingsError
from app.modules.health.api import MetricsPage
from app.modules.health.module import HealthModule

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

COUNTING = """
import sys
from prometheus_client import Counter

Counter("insula_worker_steps", "Steps.").inc(int(sys.argv[1]))
"""


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database(f"sqlite+insula:///{tmp_path / 'test.db'}", JobBook())
    yield db
    await db.close()


@pytest.fixture
async def checks(db: Database, tmp_path: Path) -> AsyncIterator[dict[str, Check]]:
    """The checks that the composition root adds, on the embedded engines."""
    surreal = open_surreal(SurrealSettings(), tmp_path, workers=1)
    yield {"database": db.ping, "redis": MemoryCache().ping, "surrealdb": surreal.ping}
    await surreal.close()


def block_of(db: Database, **environ: str) -> Block:
    house = House(version="1.2.3", data_dir="", is_loopback=True)
    # Health has no blobs.
    kit = Kit(db, MemoryCache(), None, Keyring(["x" * 32]), house, clock=lambda: NOW)
    return Block((HealthModule,), environ, kit, JobBook())


def client_of(block: Block) -> AsyncTestClient[Litestar]:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with block.opened():
            yield

    return AsyncTestClient(mount(block, lifespan, None, None))


@pytest.fixture
async def client(db: Database, checks: dict[str, Check]) -> AsyncIterator[Any]:
    block = block_of(db, HEALTH_CHECK_TIMEOUT_S="10")
    block.checks |= checks
    async with client_of(block) as client:
        yield client


class TestHealth:
    async def test_answers_the_document_of_the_seed(self, client):
        response = await client.get("/health")

        assert response.status_code == 200
        assert response.json() == {
            "status": "healthy",
            "version": "1.2.3",
            "timestamp": "2026-01-02T03:04:05Z",
        }

    async def test_answers_with_a_slash_at_the_end_too(self, client):
        assert (await client.get("/health/")).status_code == 200

    async def test_is_not_kept_by_a_cache(self, client):
        response = await client.get("/health")

        assert response.headers["cache-control"] == "no-store"


class TestLiveness:
    async def test_answers_the_same_document_and_alive(self, client):
        response = await client.get("/health/live")

        assert response.status_code == 200
        assert response.json() == {
            "status": "alive",
            "version": "1.2.3",
            "timestamp": "2026-01-02T03:04:05Z",
        }


class TestPlatform:
    async def test_answers_status_and_version_only(self, client):
        response = await client.get("/api/v1/health")

        assert response.status_code == 200
        assert response.json() == {"status": "healthy", "version": "1.2.3"}


class TestReadiness:
    async def test_is_200_on_the_embedded_engines(self, client):
        response = await client.get("/health/ready")

        assert response.status_code == 200
        assert response.json() == {
            "status": "ready",
            "checks": {"surrealdb": True, "redis": True, "database": True},
        }

    async def test_is_503_and_names_the_check_that_failed(self, db, checks):
        async def failing() -> None:
            raise Unavailable("No model has been loaded.")

        block = block_of(db, HEALTH_CHECK_TIMEOUT_S="10")
        block.checks |= checks | {"routing.model": failing}

        async with client_of(block) as client:
            response = await client.get("/health/ready")

        assert response.status_code == 503
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {
            "status": "not_ready",
            "checks": {
                "surrealdb": True,
                "redis": True,
                "database": True,
                "routing.model": False,
            },
        }

    async def test_is_503_while_the_server_of_surrealdb_is_missing(self, db, checks, tmp_path):
        settings = SurrealSettings(url="ws://127.0.0.1:1/rpc")
        missing = open_surreal(settings, tmp_path, workers=1)
        block = block_of(db, HEALTH_CHECK_TIMEOUT_S="10")
        block.checks |= checks | {"surrealdb": missing.ping}

        async with client_of(block) as client:
            response = await client.get("/health/ready")

        assert response.status_code == 503
        assert response.json()["checks"] == {"surrealdb": False, "redis": True, "database": True}
        await missing.close()

    async def test_is_503_when_a_check_misses_its_deadline(self, db, checks):
        async def hanging() -> None:
            await asyncio.Event().wait()

        block = block_of(db, HEALTH_CHECK_TIMEOUT_S="0.01")
        block.checks |= {"surrealdb": MemoryCache().ping, "redis": MemoryCache().ping}
        block.checks |= {"database": hanging}

        async with client_of(block) as client:
            response = await client.get("/health/ready")

        assert response.status_code == 503
        assert response.json()["checks"] == {"surrealdb": True, "redis": True, "database": False}


class TestMetricsPage:
    async def test_shows_what_this_process_counted(self, db):
        Counter("insula_test_steps", "Steps.").inc(3)

        page = block_of(db).kit.use(MetricsPage)

        assert page.media_type == "text/plain; version=0.0.4; charset=utf-8"
        assert b"\ninsula_test_steps_total 3.0\n" in page.render()

    async def test_adds_up_what_several_workers_counted(self, db, tmp_path):
        folder = tmp_path / "workers"
        folder.mkdir()
        environ = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
        for steps in ("3", "4"):
            worker = await asyncio.create_subprocess_exec(
                sys.executable, "-c", COUNTING, steps, env=environ
            )
            await worker.wait()

        page = block_of(db, **environ).kit.use(MetricsPage)

        assert b"\ninsula_worker_steps_total 7.0\n" in page.render()

    async def test_stops_the_start_when_there_is_no_folder_to_count_in(self, db, tmp_path):
        with pytest.raises(SettingsError, match="PROMETHEUS_MULTIPROC_DIR"):
            block_of(db, PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "missing"))
