"""Clients of either kind, against a script or against the house."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.client.callers import KINDS, caller
from tests.client.places import elsewhere
from tests.client.plays import Play, plays
from tests.scripted_upstream import Peer, raw_server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def play(kind: str) -> AsyncIterator[Callable[..., object]]:
    """Begin a play: the steps of the server, and options of the client."""
    async with AsyncExitStack() as stack:

        async def begin(*steps: bytes | Callable[[Peer], object], **options: object) -> Play:
            server = await stack.enter_async_context(raw_server(plays(*steps)))
            url = f"http://127.0.0.1:{server.port}"
            return Play(server, await stack.enter_async_context(caller(kind, url, **options)))

        yield begin


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server process, as a client takes it. Its owner's key is ``KEY``."""
    with elsewhere(tmp_path_factory.mktemp("server") / "data") as base_url:
        yield base_url
