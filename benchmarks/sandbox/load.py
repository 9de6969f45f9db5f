"""Scripts of every kind, good and bad, and how each must end."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import aiohttp

from benchmarks.processes import BenchError, Server
from benchmarks.sandbox.house import HOST, PREFIX

PROJECT: Final = "soak"
DOCUMENT: Final = {"description": "Goes up and down.", "limits": {"memory_mb": 128}}
RETRY_S = 0.02
ANSWER_LIMIT_S = 90.0
# A script of a project that is being changed is refused so often, at most.
TRIES = 500
WARM_TIMES = 2

PRINT: Final = "print('hello')\nset_result({'ok': True})\n"
# Printed in full, but more than is kept.
LONG_OUTPUT: Final = "for _ in range(300): print('x' * 9999)\n"
FLOOD: Final = "while True: print('x' * 9999)\n"
ERROR: Final = "raise ValueError('on purpose')\n"
ENDLESS: Final = "while True: pass\n"
MEMORY: Final = "held = []\nwhile True: held.append(bytearray(8 << 20))\n"
MANY_HOLD: Final = """\
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = bytearray(60 << 20)
        for place in range(0, len(held), 4096): held[place] = 1
        time.sleep(30)
time.sleep(30)
"""
FORKS: Final = """\
import os, time
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        count += 1
except OSError:
    pass
set_result(count)
"""
ASK: Final = "set_result(llm.complete('How are you?') + llm.complete('And now?'))\n"
FILES: Final = "save_artifact('a.bin', bytes(range(256)) * 64)\n"
SLEEP: Final = "import time\nprint('begun', flush=True)\ntime.sleep(60)\n"
SAVED: Final = bytes(range(256)) * 64

Found = dict[str, Any]
Kind = Callable[["Load"], Awaitable[None]]


class Load:
    """The clients' calls. ``ends`` counts how scripts ended, ``wrong`` says which should not."""

    def __init__(self, server: Server, draw: random.Random) -> None:
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._draw = draw
        self._url = f"http://{HOST}:{server.port}{PREFIX}"
        self._headers = {"authorization": f"Bearer {server.key}"}
        self._changing = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        limit = aiohttp.ClientTimeout(ANSWER_LIMIT_S)
        async with aiohttp.ClientSession(headers=self._headers, timeout=limit) as self._session:
            await self._told("PUT", f"/projects/{PROJECT}", DOCUMENT)
            await self._told("POST", f"/projects/{PROJECT}/up", {"replicas": 2})
            yield

    async def warm(self) -> None:
        """Each kind a few times at once, so that pools of connections are as large as they get."""
        await asyncio.gather(*(self._one(kind) for kind in KINDS for _ in range(WARM_TIMES)))

    async def call(self, *, until_s: float) -> None:
        """Call without a pause until that moment."""
        kinds, weights = list(KINDS), list(KINDS.values())
        while time.monotonic() < until_s:
            await self._one(self._draw.choices(kinds, weights)[0])

    async def settle(self) -> None:
        await self._told("POST", f"/projects/{PROJECT}/up", {"replicas": 2})

    async def printed(self) -> None:
        found = await self._execute(PRINT)
        self._expect("print", found, "completed", is_right=found.get("stdout") == "hello\n")

    async def long_output(self) -> None:
        found = await self._execute(LONG_OUTPUT)
        self._expect("long output", found, "completed", is_right=bool(found["stdout_truncated"]))

    async def flood(self) -> None:
        found = await self._execute(FLOOD, timeout=20)
        self._expect("flood", found, "error", is_right=bool(found.get("stdout_truncated")))

    async def error(self) -> None:
        found = await self._execute(ERROR)
        self._expect("error", found, "error", is_right="on purpose" in str(found.get("error")))

    async def timeout(self) -> None:
        self._expect("endless loop", await self._execute(ENDLESS, timeout=1), "timeout")

    async def memory(self) -> None:
        found = await self._execute(MEMORY, timeout=20)
        self._expect("memory bomb", found, "error", is_right="emory" in str(found.get("error")))

    async def many_hold(self) -> None:
        """Each process is within the limit, all together are not; only where forks are allowed."""
        found = await self._execute(MANY_HOLD, timeout=20, project=PROJECT)
        self._expect("memory of many processes", found, "error")

    async def forks(self) -> None:
        found = await self._execute(FORKS, timeout=20)
        is_right = isinstance(found.get("result"), int) and found["result"] < 64
        self._expect("fork bomb", found, "completed", is_right=is_right)

    async def answered(self) -> None:
        found = await self._execute(ASK)
        for _ in range(2):
            if found.get("status") != "awaiting_llm":
                break
            path = f"/executions/{found['execution_id']}"
            asked = {"response": "Well.", "request_id": found["llm_request"]["request_id"]}
            await self._ask("POST", f"{path}/respond", asked)
            _, found = await self._ask("GET", f"{path}?wait=1")
        self._expect("answered", found, "completed", is_right=found.get("result") == "Well.Well.")

    async def unanswered(self) -> None:
        found = await self._execute(ASK)
        await self._cancel("left without an answer", found)

    async def files(self) -> None:
        found = await self._execute(FILES)
        url = f"{self._url}/executions/{found['execution_id']}/artifacts/a.bin"
        async with self._session.get(url) as response:
            is_right = await response.read() == SAVED
        self._expect("file saved", found, "completed", is_right=is_right)

    async def cancelled(self) -> None:
        _, made = await self._ask("POST", "/execute", {"code": SLEEP})
        await asyncio.sleep(self._draw.random() / 5)
        await self._cancel("cancelled", made)

    async def project(self) -> None:
        """Take the project down and up again, and run something in it."""
        async with self._changing:
            await self._told("POST", f"/projects/{PROJECT}/down")
            await self._told("POST", f"/projects/{PROJECT}/up", {"replicas": 2})
        self._expect(
            "project down and up", await self._execute(PRINT, project=PROJECT), "completed"
        )

    async def _one(self, kind: Kind) -> None:
        try:
            await kind(self)
        except (aiohttp.ClientError, TimeoutError, KeyError) as error:
            self.wrong.append(f"{kind.__name__}: {type(error).__name__} {error}")

    async def _cancel(self, name: str, found: Found) -> None:
        path = f"/executions/{found['execution_id']}"
        await self._ask("POST", f"{path}/cancel")
        for _ in range(TRIES):
            _, found = await self._ask("GET", path)
            if found["status"] not in {"pending", "running", "awaiting_llm"}:
                break
            await asyncio.sleep(RETRY_S)
        self._expect(name, found, "error")

    async def _execute(self, code: str, **more: Any) -> Found:
        """Run it; where the queue is full, or its project is being changed, try again."""
        found: Found = {}
        for _ in range(TRIES):
            status, found = await self._ask("POST", "/execute?wait=1", {"code": code, **more})
            is_between = status in {409, 503} and "project" in more
            if status != 429 and not is_between:
                break
            await asyncio.sleep(RETRY_S)
        return found

    def _expect(self, name: str, found: Found, status: str, *, is_right: bool = True) -> None:
        self.ends[f"executions: {name}"] += 1
        if found.get("status") != status or not is_right:
            shown = {k: v for k, v in found.items() if k not in {"stdout", "stderr"}}
            self.wrong.append(f"{name}: {str(shown)[:600]}")

    async def _told(self, method: str, path: str, body: Found | None = None) -> Found:
        status, found = await self._ask(method, path, body or {})
        if status >= 400:
            raise BenchError(f"{path} answered {status}: {found}")
        return found

    async def _ask(self, method: str, path: str, body: Found | None = None) -> tuple[int, Found]:
        async with self._session.request(method, self._url + path, json=body) as response:
            text = await response.text()
            try:
                return response.status, json.loads(text or "null")
            except ValueError:
                told = f"{method} {path} answered {response.status}, and no JSON: {text[:600]}"
                raise BenchError(told) from None


# How often each comes, relative to the others.
KINDS: Final[dict[Kind, int]] = {
    Load.printed: 40,
    Load.error: 10,
    Load.answered: 8,
    Load.files: 8,
    Load.cancelled: 6,
    Load.unanswered: 4,
    Load.long_output: 3,
    Load.flood: 2,
    Load.timeout: 2,
    Load.memory: 2,
    Load.many_hold: 2,
    Load.forks: 2,
    Load.project: 1,
}
