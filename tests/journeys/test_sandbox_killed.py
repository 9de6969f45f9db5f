"""A server that is killed in the middle of scripts: nothing of them is left, and it is said."""

import asyncio
import os
import signal

import httpx
import psutil
import pytest

from tests.house import AUTHORIZED, RunningServer, prepare
from tests.modules.sandbox.jails import TIERS, is_alive, passable_folder
from tests.waiting import until

pytestmark = pytest.mark.slow

GONE_S = 2.0
NOT_AGAIN = "The server stopped while the script ran. It is not run a second time."
BUSY = """
import os, signal
print('begun', flush=True)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
try:
    if os.fork() == 0:
        os.setsid()
        os.fork()
except PermissionError:
    pass
while True: pass
"""
ASKS = "print('before', flush=True)\nllm.complete('?')"


@pytest.fixture(params=TIERS)
def tier(request):
    return request.param


@pytest.fixture
def server(tier):
    with passable_folder() as folder:
        variables = {"FEATURE_SANDBOX": "on", "SANDBOX_RUNNER": "jail", "SANDBOX_JAIL_TIER": tier}
        server = RunningServer(prepare(folder / "data"), SANDBOX_REPLICAS="2", **variables)
        yield server
        server.stop()


def jailed(server: RunningServer) -> list[psutil.Process]:
    """The processes of the server's sandbox: they keep the name that their first one has."""
    found = [psutil.Process(pid) for pid in server.pids]
    return [process for process in found if "insula_jail" in " ".join(process.cmdline())]


def kill_the_server_alone(server: RunningServer) -> None:
    spared = {process.pid for process in jailed(server)}
    for pid in server.pids:
        if pid not in spared:
            os.kill(pid, signal.SIGKILL)


class Caller:
    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def capabilities(self) -> dict:
        return (await self._client.get("/sandbox/capabilities")).json()

    async def submit(self, code: str) -> str:
        answer = await self._client.post("/sandbox/execute", json={"code": code})
        assert answer.status_code == 202, answer.text
        return answer.json()["execution_id"]

    async def run(self, code: str) -> dict:
        answer = await self._client.post("/sandbox/execute?wait=1", json={"code": code})
        return answer.json()

    async def read(self, execution_id: str) -> dict:
        return (await self._client.get(f"/sandbox/executions/{execution_id}")).json()

    async def until_in(self, execution_id: str, status: str) -> dict:
        async def found() -> dict | None:
            read = await self.read(execution_id)
            return (
                read
                if read["status"] == status and (read["stdout"] or status != "running")
                else None
            )

        return await until(found, within_s=30)


class TestKill:
    async def test_ends_every_process_and_says_what_became_of_each_script(self, server, tier):
        await server.start()
        async with httpx.AsyncClient(
            base_url=server.base_url, headers=AUTHORIZED, timeout=60
        ) as client:
            caller = Caller(client)
            offered = await caller.capabilities()
            if offered["tier"] != tier:
                pytest.skip(offered["reason"])
            ended = await caller.run("set_result('kept')")
            paused = await caller.submit(ASKS)
            await caller.until_in(paused, "awaiting_llm")
            busy = [await caller.submit(BUSY) for _ in range(2)]
            for one in busy:
                await caller.until_in(one, "running")
            family = jailed(server)

            kill_the_server_alone(server)

            await until(lambda: not any(is_alive(one) for one in family), within_s=GONE_S)
            await asyncio.to_thread(server.stop)
            await server.start()
            lost = [await caller.until_in(one, "error") for one in (paused, *busy)]

            assert len(family) > 4
            assert [read["error"] for read in lost] == [NOT_AGAIN] * 3
            assert await caller.read(ended["execution_id"]) == ended
            assert (await caller.run("set_result(6 * 7)"))["result"] == 42
