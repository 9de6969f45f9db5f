"""Two upstreams, and a house before them."""

from contextlib import AsyncExitStack

import httpx
import pytest

from tests.house import AUTHORIZED, LEAN, open_house, prepare
from tests.scripted_upstream import scripted_upstream


@pytest.fixture
async def one():
    async with scripted_upstream() as played:
        yield played


@pytest.fixture
async def two():
    """Lists one model of its own, so that every other name is the first one's."""
    async with scripted_upstream() as played:
        played.models = ["other"]
        yield played


@pytest.fixture
async def open_client(tmp_path, one, two):
    async with AsyncExitStack() as stack:

        async def make(**variables: str) -> httpx.AsyncClient:
            environ = {
                "EXTERNAL_ONE_KEY": "sk-one-1,sk-one-2",
                "ONE_BASE_URL": one.base_url,
                "EXTERNAL_TWO_KEY": "sk-two",
                "TWO_BASE_URL": two.base_url,
                "ROUTING_RETRIES": "0",
                **LEAN,
                **variables,
            }
            data = prepare(tmp_path / "data")
            house, client = await stack.enter_async_context(open_house(data, **environ))
            client.headers.update(AUTHORIZED)
            client.house = house
            await client.get("/v1/models")
            return client

        yield make


@pytest.fixture
async def client(open_client):
    return await open_client()
