"""A vault's way to a house that runs in this process, in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.house import open_house, prepare

BASE = "http://127.0.0.1"
START_S = 30.0


class InProcess(httpx.BaseTransport):
    """Hands calls to the loop that the house lives in. ``sent`` are their bodies."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self.sent: list[bytes] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request.read())
        return asyncio.run_coroutine_threadsafe(self._send(request), self._loop).result()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        answer = await self._client.request(
            request.method, request.url, headers=request.headers, content=request.content
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@contextmanager
def in_process(data: Path) -> Iterator[InProcess]:
    """Open a house and keep it open for the block."""
    opened: list[tuple[InProcess, asyncio.Event]] = []
    is_open = threading.Event()

    async def live() -> None:
        async with open_house(prepare(data)) as (_, client):
            opened.append((InProcess(client), end := asyncio.Event()))
            is_open.set()
            await end.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(live()))
    thread.start()
    try:
        assert is_open.wait(START_S), "The house does not open."
        yield opened[0][0]
    finally:
        for _, end in opened:
            loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
