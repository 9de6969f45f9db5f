"""Two workers on PostgreSQL and Valkey behave as one server."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import redis

from tests import tables
from tests.house import AUTHORIZED, LEAN, RunningServer, environment
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
CONNECTIONS = 12
COUNTED = 'insula_model_call_seconds_count{model="dev/echo",outcome="completed"'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_url(postgres_socket: Path):
    async with tables.blank(postgres_socket) as name:
        yield tables.url_of(postgres_socket, name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, database_url: str, valkey_url: str):
    """Of its two tests one calls models, and the other one does not."""
    with redis.Redis.from_url(valkey_url) as valkey:
        valkey.flushall()
    variables = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey_url,
        "APP_SECRET": "a secret of the whole cluster that is long enough",
        "APP_WORKERS": "2",
        # Nothing listens there, which the start survives and readiness reports.
        "SURREALDB_URL": "ws://127.0.0.1:9/rpc",
        **LEAN,
    }
    data = tmp_path_factory.mktemp("data")
    migrating = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "migrate", env=environment(data, **variables), stdout=DEVNULL
    )
    assert await migrating.wait() == 0
    server = RunningServer(data, **variables)
    await server.start()
    yield server
    server.stop()


async def each_worker(server: RunningServer, path: str, headers: dict[str, str]) -> set[int]:
    """Ask over fresh connections, so that both workers are asked."""

    async def ask() -> int:
        async with httpx.AsyncClient(base_url=server.base_url) as client:
            return (await client.get(path, headers=headers)).status_code

    return set(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))


class TestTwoWorkers:
    async def test_a_key_revoked_at_one_is_refused_by_the_other(self, server):
        async with httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as client:
            made = await client.post(
                "/api/v1/auth/api-keys", json={"name": "k", "scopes": ["read"]}
            )
            key = {"authorization": f"Bearer {made.json()['key']}"}
            before = await each_worker(server, "/api/v1/usage", key)
            gone = await client.delete(f"/api/v1/auth/api-keys/{made.json()['api_key']['id']}")

        async def is_refused() -> bool:
            return await each_worker(server, "/api/v1/usage", key) == {401}

        assert before == {200}
        assert gone.status_code == 204
        assert await until(is_refused, within_s=2.0)

    async def test_calls_and_metrics_of_both_are_counted_once(self, server):
        body = {"model": "dev/echo", "messages": [{"role": "user", "content": "hi"}]}

        async def call() -> str:
            async with httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as client:
                answer = await client.post("/v1/chat/completions", json=body)
                return answer.headers["x-call-id"]

        ids = set(await asyncio.gather(*(call() for _ in range(CONNECTIONS))))

        async with httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as client:

            async def rows() -> bool:
                page = await client.get("/api/v1/usage", params={"limit": 500})
                return {row["id"] for row in page.json()["items"]} == ids

            async def counted() -> bool:
                metrics = (await client.get("/metrics")).text
                lines = [line for line in metrics.splitlines() if line.startswith(COUNTED)]
                return [float(line.split()[-1]) for line in lines] == [CONNECTIONS]

            assert await until(rows)
            assert await until(counted)
