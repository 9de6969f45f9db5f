"""Two upstreams, and a house before them, which the tests of a file share.

For tests that are marked ``asyncio(loop_scope="module")``.
"""

from contextlib import AsyncExitStack, asynccontextmanager

import pytest_asyncio

from tests.house import AUTHORIZED, LEAN, open_house, prepare
from tests.modules.routing.asking import tidy
from tests.scripted_upstream import scripted_upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstreams():
    async with scripted_upstream() as one, scripted_upstream() as two:
        yield one, two


@pytest_asyncio.fixture(loop_scope="module")
async def one(upstreams):
    """Nobody has asked it anything yet."""
    played = upstreams[0]
    await played.tidy()
    return played


@pytest_asyncio.fixture(loop_scope="module")
async def two(upstreams):
    """Lists one model of its own, so that every other name is the first one's."""
    played = upstreams[1]
    await played.tidy()
    played.models = ["other"]
    return played


@asynccontextmanager
async def opened(data, upstreams, **variables: str):
    one, two = upstreams
    environ = {
        "EXTERNAL_ONE_KEY": "sk-one-1,sk-one-2",
        "ONE_BASE_URL": one.base_url,
        "EXTERNAL_TWO_KEY": "sk-two",
        "TWO_BASE_URL": two.base_url,
        "ROUTING_RETRIES": "0",
        **LEAN,
        **variables,
    }
    async with open_house(prepare(data), **environ) as (house, client):
        client.headers.update(AUTHORIZED)
        client.house = house
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def open_client(tmp_path, upstreams, one, two):
    """Opens a house of its own, with settings of its own."""
    async with AsyncExitStack() as stack:

        async def make(**variables: str):
            opening = opened(tmp_path / "data", upstreams, **variables)
            client = await stack.enter_async_context(opening)
            await client.get("/v1/models")
            return client

        yield make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_client(tmp_path_factory, upstreams):
    async with opened(tmp_path_factory.mktemp("house") / "data", upstreams) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def client(one_client, one, two):
    """The owner of a house that all tests of the file share, and that nobody has asked yet."""
    await tidy(one_client)
    return one_client
