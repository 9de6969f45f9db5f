"""Where the server is: in this process, or one of its own behind a socket."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from tests.house import LEAN, RunningServer, open_house, prepare

FLOWS = {**LEAN, "FEATURE_FLOWS": "on"}
GREETING = {
    "flow_id": "greeting",
    "name": "Greeting",
    "nodes": [
        {"id": "start", "type": "input"},
        {"id": "end", "type": "output", "depends_on": ["start"]},
    ],
}


class Through(httpx.AsyncBaseTransport):
    """Hands requests on to a client of the house in this process."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        answer = await self._client.request(
            request.method, request.url, headers=request.headers, content=content
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@asynccontextmanager
async def here(data: Path) -> AsyncIterator[Through]:
    """The whole house over ASGI."""
    async with open_house(prepare(data), **FLOWS) as (_, client):
        yield Through(client)


@contextmanager
def elsewhere(data: Path) -> Iterator[str]:
    """A server process; its address with the path of the contract."""
    server = RunningServer(prepare(data), **FLOWS)
    asyncio.run(server.start())
    try:
        yield f"{server.base_url}/spine"
    finally:
        server.stop()
