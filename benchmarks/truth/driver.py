"""The clients: raw sockets, and a memory of what each call has sent and had."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.processes import BenchError
from benchmarks.truth.plan import Leave, Planned

HOST = "127.0.0.1"
CALLERS = 64
PREFIX = "truth-"
RETRY_S = 0.02
# A call that is left has its row long before.
SETTLES_IN_S = 0.5
READ_LIMIT_BYTES = 1 << 20
DONE: Final = b"data: [DONE]"
STAY: Final = Leave("reading")

Tokens = tuple[int, int, int]


@dataclass(slots=True)
class Heard:
    """What a client has had of one call. ``events`` are those it read, whole ones.

    ``is_whole``: the answer came to its end. ``is_done``: as a stream it said so itself.
    ``was_struck``: the server was killed under it, or so soon after its client had left that
    nobody knows whether it had ended.
    """

    life: int
    status: int = 0
    call_id: str = ""
    events: int = 0
    is_whole: bool = False
    is_done: bool = False
    has_left: bool = False
    left_s: float = 0.0
    was_struck: bool = False
    usage: Tokens | None = None


class Driver:
    """Makes the planned calls. ``life`` counts how often the server was killed."""

    def __init__(self, port: int, key: str, plans: Iterator[Planned]) -> None:
        self.port = port
        self.key = key
        self.plans = plans
        self.heard: dict[int, Heard] = {}
        self.planned: dict[int, Planned] = {}
        self.finished = 0
        self.life = 0
        self.is_up = asyncio.Event()
        self.is_up.set()

    async def run(self) -> None:
        callers = [Caller(self) for _ in range(CALLERS)]
        await asyncio.gather(*(caller.run() for caller in callers))

    def strike(self) -> None:
        """Call this in the moment before the server is killed."""
        self.life += 1
        self.is_up.clear()
        since_s = time.monotonic() - SETTLES_IN_S
        for heard in self.heard.values():
            heard.was_struck |= heard.has_left and heard.left_s > since_s


class Caller:
    """One client: a call at a time, over one connection as long as that lasts."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._life = -1
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        driver = self._driver
        for planned in driver.plans:
            writer = await self._connected()
            heard = driver.heard[planned.number] = Heard(driver.life)
            driver.planned[planned.number] = planned
            try:
                await self._exchange(writer, planned, heard)
            except (ConnectionError, asyncio.IncompleteReadError):
                self._drop()
            heard.was_struck |= not heard.is_whole and heard.life != driver.life
            driver.finished += 1
        self._drop()

    async def _connected(self) -> asyncio.StreamWriter:
        driver = self._driver
        while True:
            await driver.is_up.wait()
            if self._writer is not None and self._life == driver.life:
                return self._writer
            self._drop()
            try:
                self._life = driver.life
                self._reader, self._writer = await asyncio.open_connection(
                    HOST, driver.port, limit=READ_LIMIT_BYTES
                )
            except OSError:
                await asyncio.sleep(RETRY_S)

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _exchange(self, writer: asyncio.StreamWriter, planned: Planned, heard: Heard) -> None:
        """Ask, and read the answer to its end or to the moment at which the client leaves."""
        request, leave = self._request(planned), planned.leave
        if leave is not None and leave.moment == "sending":
            writer.write(request[: len(request) // 2])
        else:
            writer.write(request)
            await writer.drain()
        if leave is not None and leave.moment in {"sending", "sent"}:
            heard.has_left = True
        else:
            leave = leave or STAY
            try:
                async with asyncio.timeout(leave.after_s or None):
                    await self._read(heard, leave.after_events)
            except TimeoutError:
                heard.has_left = not heard.is_whole
        if heard.has_left:
            heard.left_s = time.monotonic()
            self._drop()

    def _request(self, planned: Planned) -> bytes:
        text = planned.body
        return (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {HOST}:{self._driver.port}\r\n"
            f"content-type: application/json\r\nauthorization: Bearer {self._driver.key}\r\n"
            f"x-request-id: {PREFIX}{planned.number}\r\n"
            f"content-length: {len(text)}\r\n\r\n{text}"
        ).encode()

    async def _read(self, heard: Heard, leaves_after: int) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        heard.status = int(head[9:12])
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        heard.call_id = fields.get("x-call-id", "")
        if "content-length" in fields:
            whole = await self._reader.readexactly(int(fields["content-length"]))
            heard.usage = _usage(json.loads(whole))
        elif fields.get("transfer-encoding") == "chunked":
            await self._read_events(heard, leaves_after)
            if heard.has_left:
                return
        else:
            raise BenchError(f"An answer that has no length:\n{head}")
        heard.is_whole = True

    async def _read_events(self, heard: Heard, leaves_after: int) -> None:
        """Read chunks to the last, which is empty."""
        parts: list[bytes] = []
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            chunk = (await self._reader.readexactly(size + 2))[:-2]
            parts.append(chunk)
            heard.events += chunk.count(b'"delta"')
            if not chunk:
                break
            if leaves_after and heard.events >= leaves_after:
                heard.has_left = True
                return
        text = b"".join(parts)
        heard.is_done = DONE in text
        for line in text.splitlines():
            if b'"usage":{' in line:
                heard.usage = _usage(json.loads(line.removeprefix(b"data: ")))


def _usage(answer: dict[str, Any]) -> Tokens | None:
    """Prompt, completion and cached tokens, as the client was told."""
    told = answer.get("usage")
    if told is None:
        return None
    cached = told["prompt_tokens_details"]["cached_tokens"]
    return told["prompt_tokens"], told["completion_tokens"], cached
