"""Clients of a server that is killed: what they submit, and what they know of it."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import aiohttp

from benchmarks.processes import BenchError, Server
from benchmarks.sandbox.books import FINAL
from benchmarks.sandbox.house import HOST, PREFIX

SUBMITTERS = 8
RETRY_S = 0.05
PATIENCE_S = 120.0
END_LIMIT_S = 30.0

MARK: Final = 'import ctypes, time\nctypes.CDLL(None).prctl(15, b"once-{number}")\n'
RESULT: Final = "set_result({{'number': {number}, 'nonce': '{nonce}', 'answer': answer}})\n"
QUICK: Final = "answer = None\n"
SHORT: Final = "time.sleep(0.25)\nanswer = None\n"
LONG: Final = "time.sleep(1.5)\nanswer = None\n"
ASKING: Final = "answer = llm.complete('{nonce}')\n"
ANSWERED, UNANSWERED = "answered", "unanswered"
KINDS: Final = (
    (QUICK, ""),
    (QUICK, ""),
    (SHORT, ""),
    (QUICK, ""),
    (ASKING, ANSWERED),
    (QUICK, ""),
    (SHORT, ""),
    (QUICK, ""),
    (ASKING, UNANSWERED),
    (LONG, ""),
)


@dataclass
class Submitted:
    """One execution, as its client knows it. ``ids``: what its key was answered with."""

    number: int
    code: str
    nonce: str
    asks: str
    ids: set[str] = field(default_factory=set)
    found: dict[str, Any] = field(default_factory=dict)


class Crowd:
    """The clients. They go on with what they did when the server is up again."""

    def __init__(self, server: Server, executions: int) -> None:
        self.all = [_submitted(number) for number in range(executions)]
        self.is_up = asyncio.Event()
        self.taken = 0
        self._url = f"http://{HOST}:{server.port}{PREFIX}"
        self._headers = {"authorization": f"Bearer {server.key}"}
        self._waiting = iter(self.all)
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=self._headers) as self._session:
            await asyncio.gather(*(self._submit_all() for _ in range(SUBMITTERS)))
            await asyncio.gather(*self._answering)

    async def settle(self) -> None:
        """Ask every key again; end what still waits for a model; learn how each has ended."""
        async with aiohttp.ClientSession(headers=self._headers) as self._session:
            for each in self.all:
                await self._submit(each)
            for each in self.all:
                each.found = await self._end(each)

    async def _submit_all(self) -> None:
        for each in self._waiting:
            await self._submit(each)
            self.taken += 1
            if each.asks == ANSWERED:
                task = asyncio.create_task(self._answer(each))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)

    async def _submit(self, each: Submitted) -> None:
        body, headers = {"code": each.code}, {"idempotency-key": f"crash-{each.number}"}
        while True:
            status, answer = await self._ask("POST", "/execute", body, headers)
            if status == 202:
                each.ids.add(answer["execution_id"])
                return
            if status != 429:
                raise BenchError(f"{each.number} was answered {status}: {answer}")
            await asyncio.sleep(RETRY_S)

    async def _answer(self, each: Submitted) -> None:
        path = f"/executions/{next(iter(each.ids))}"
        status, found = await self._ask("GET", f"{path}?wait=1")
        if status == 200 and found["status"] == "awaiting_llm":
            await self._ask("POST", f"{path}/respond", {"response": f"yes {each.nonce}"})

    async def _end(self, each: Submitted) -> dict[str, Any]:
        path = f"/executions/{next(iter(each.ids))}"
        status, found = await self._ask("GET", f"{path}?wait=1")
        if status == 200 and found["status"] == "awaiting_llm":
            if each.asks == ANSWERED:
                await self._ask("POST", f"{path}/respond", {"response": f"yes {each.nonce}"})
            else:
                await self._ask("POST", f"{path}/cancel")
        return await self._until_final(path)

    async def _until_final(self, path: str) -> dict[str, Any]:
        """Poll, as a client does; what has not ended in time is given back as it is."""
        give_up_at = time.monotonic() + END_LIMIT_S
        while True:
            status, found = await self._ask("GET", path)
            if status != 200 or found["status"] in FINAL or time.monotonic() > give_up_at:
                return found if status == 200 else {}
            await asyncio.sleep(RETRY_S)

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """One request, again and again until the server lives long enough to answer it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await self.is_up.wait()
                with contextlib.suppress(aiohttp.ClientError):
                    async with self._session.request(
                        method, self._url + path, json=body, headers=headers
                    ) as response:
                        return response.status, await response.json(content_type=None)
                await asyncio.sleep(RETRY_S)


def _submitted(number: int) -> Submitted:
    text, asks = KINDS[number % len(KINDS)]
    nonce = uuid4().hex
    code = (MARK + text + RESULT).format(number=number, nonce=nonce)
    return Submitted(number, code, nonce, asks)
