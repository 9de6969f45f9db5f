"""Ends of the server: killed, whoever has a whole answer is on the bill once; told, it drains."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.house import AUTHORIZED, LEAN, running_server
from tests.scripted_upstream import scripted_upstream
from tests.waiting import until

pytestmark = pytest.mark.slow
CALLERS = 100
WHOLE_BEFORE_KILL = 300


class Callers:
    """Call without a pause until the server is gone; remember every whole answer by its id."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/v1/chat/completions"
        self.whole: list[str] = []
        self.enough = asyncio.Event()

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=AUTHORIZED) as session:
            await asyncio.gather(*(self._call(session, n) for n in range(CALLERS)))

    async def _call(self, session: aiohttp.ClientSession, number: int) -> None:
        is_streamed = number % 2 == 0
        asked = {
            "model": "good",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": is_streamed,
        }
        while True:
            try:
                async with session.post(self._url, json=asked) as response:
                    text = await response.text()
            except aiohttp.ClientError:
                return
            is_whole = text.endswith("data: [DONE]\n\n") if is_streamed else bool(json.loads(text))
            if response.status == 200 and is_whole:
                self.whole.append(response.headers["x-call-id"])
            if len(self.whole) >= WHOLE_BEFORE_KILL:
                self.enough.set()


async def rows(base_url: str) -> Counter[str]:
    found: Counter[str] = Counter()
    async with aiohttp.ClientSession(headers=AUTHORIZED) as session:
        cursor = ""
        while True:
            url = f"{base_url}/api/v1/usage?limit=500" + (f"&cursor={cursor}" if cursor else "")
            async with session.get(url) as response:
                page = await response.json()
            found.update(row["id"] for row in page["items"])
            if page["next"] is None:
                return found
            cursor = page["next"]


class TestKill:
    async def test_every_whole_answer_has_one_row_after_the_restart(self, tmp_path: Path):
        async with scripted_upstream() as played:
            variables = {"EXTERNAL_MOCK_KEY": "k", "MOCK_BASE_URL": played.base_url, **LEAN}
            async with running_server(tmp_path / "data", **variables) as server:
                callers = Callers(server.base_url)
                running = asyncio.create_task(callers.run())
                await asyncio.wait_for(callers.enough.wait(), 60)
                server.kill()
                await running
                await server.start()

                found = await rows(server.base_url)

        assert len(callers.whole) >= WHOLE_BEFORE_KILL
        assert [call for call in callers.whole if found[call] != 1] == []
        assert set(found.values()) == {1}


class TestTerminate:
    async def test_a_stream_in_flight_comes_through_whole(self, tmp_path: Path):
        async with scripted_upstream() as played:
            variables = {"EXTERNAL_MOCK_KEY": "k", "MOCK_BASE_URL": played.base_url, **LEAN}
            async with running_server(tmp_path / "data", **variables) as server:
                asked = {
                    "model": "slow",
                    "messages": [{"role": "user", "content": "hi"}],
                    "stream": True,
                }
                async with (
                    aiohttp.ClientSession(headers=AUTHORIZED) as session,
                    session.post(f"{server.base_url}/v1/chat/completions", json=asked) as response,
                ):
                    first = await response.content.readany()
                    server.terminate()
                    await until(lambda: refuses(server.port))
                    played.release.set()
                    rest = await response.content.read()
                code = await asyncio.to_thread(server.stop)
                await server.start()

                found = await rows(server.base_url)

        assert (first + rest).endswith(b"data: [DONE]\n\n")
        assert code == 0
        assert found == {response.headers["x-call-id"]: 1}


async def refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
