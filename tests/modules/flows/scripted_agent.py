"""Real agents on loopback, well-behaved or not.

``agent_server`` serves until its block ends. How it behaves is set while it runs: what a good agent
answers, how long it takes, and whether it is one at all.
"""

import asyncio
import gzip
import inspect
import json
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiohttp import web

METADATA = "http://169.254.169.254/latest/meta-data/"
HUGE_BYTES = 100 * 1024 * 1024
DEEP = 100_000
PIECE = bytes(65_536)


class Call(NamedTuple):
    """One request to do a node. ``headers`` have lower-case names."""

    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def key(self) -> str:
        return self.headers.get("idempotency-key", "")

    @property
    def node_id(self) -> str:
        return self.body["node_id"]

    @property
    def input(self) -> dict[str, Any]:
        return self.body["input"]


class ScriptedAgent:
    """What it was asked, and how it answers from now on.

    ``answer`` makes the output of a call, and may be a coroutine function. Calls wait for
    ``delay_s`` and until ``gate`` is set, as it is at first. ``health`` is what it says of itself.
    ``open`` calls are being answered, ``cut`` ones were left by the caller.
    """

    def __init__(self, behaviour: "Behaviour") -> None:
        self.gate = asyncio.Event()
        self.open = 0
        self.url = ""
        self.reset(behaviour)

    def reset(self, behaviour: "Behaviour | None" = None) -> None:
        """Forget what was asked, and be good again, unless told otherwise."""
        self.behaviour = behaviour or good
        self.answer: Callable[[Call], Any] = lambda call: {"done": call.node_id}
        self.delay_s = 0.0
        self.gate.set()
        self.health: Mapping[str, Any] = {"ready": True}
        self.calls: list[Call] = []
        self.looks: list[Call] = []
        self.cut = 0

    @property
    def counts(self) -> Counter[str]:
        """How often each ``Idempotency-Key`` came."""
        return Counter(call.key for call in self.calls)

    async def execute(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(await _call(request))
        self.open += 1
        try:
            return await self.behaviour(self, request)
        except (asyncio.CancelledError, ConnectionError):
            self.cut += 1
            raise
        finally:
            self.open -= 1

    async def look(self, request: web.Request) -> web.StreamResponse:
        self.looks.append(await _call(request))
        if self.behaviour is good:
            return web.json_response(self.health)
        return await self.behaviour(self, request)

    async def pause(self) -> None:
        """Take as long as the test wants."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self.gate.wait()


Behaviour = Callable[[ScriptedAgent, web.Request], Awaitable[web.StreamResponse]]


async def good(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Do what is asked."""
    # The newest is this one: nothing was awaited since it was written down.
    call = agent.calls[-1]
    await agent.pause()
    output = agent.answer(call)
    if inspect.isawaitable(output):
        output = await output
    execution_id = call.body["execution_id"]
    return web.json_response({"status": "success", "output": output, "execution_id": execution_id})


def says(body: Any, status: int = 200) -> Behaviour:
    """Answer with this: bytes as they are, else as JSON."""
    whole = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def play(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
        await agent.pause()
        return web.Response(body=whole, status=status, content_type="application/json")

    return play


async def slow(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def slow_body(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Begin an answer, and never end it."""
    response = await _begin(request)
    await response.write(b'{"status":')
    return await slow(agent, request)


async def huge(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Send 100 MB, and do not say so before."""
    response = await _begin(request)
    await response.write(b'{"status":"success","output":"')
    for _ in range(HUGE_BYTES // len(PIECE)):
        await response.write(PIECE)
    return response


async def announces_huge(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Say that 100 MB come, and send as much as is taken."""
    response = await _begin(request, {"content-length": str(HUGE_BYTES)})
    for _ in range(HUGE_BYTES // len(PIECE)):
        await response.write(PIECE)
    return response


async def redirects(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Lead to the cloud's metadata."""
    return web.Response(status=307, headers={"location": METADATA})


async def bombs(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Send 100 MB as some kB, though nobody has asked for it."""
    begin, end = b'{"status":"success","output":"', b'"}'
    # What is compressed may be put together of parts that were compressed.
    many = gzip.compress(b"x" * len(PIECE)) * (HUGE_BYTES // len(PIECE))
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    return web.Response(body=gzip.compress(begin) + many + gzip.compress(end), headers=headers)


async def dies(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Break off in the middle of the answer."""
    response = await _begin(request, {"content-length": "1000"})
    await response.write(b'{"status":"success","output":{"half"')
    _transport(request).abort()
    return response


async def hangs_up(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Read the request, and close the connection without a word."""
    _transport(request).close()
    return web.Response()


async def cuts_keep_alive(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Answer well, and close the connection at once, without having said so."""
    body = b'{"output": "done"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    transport = _transport(request)
    # By the socket itself, so that the end is there when the answer is read.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as door:
        door.sendall(head + body)
        door.shutdown(socket.SHUT_WR)
    transport.abort()
    return web.Response()


async def continues(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Say that it goes on, again and again."""
    transport = _transport(request)
    while not transport.is_closing():
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await asyncio.sleep(0.001)
    return web.Response()


async def endless_head(agent: ScriptedAgent, request: web.Request) -> web.StreamResponse:
    """Send headers until the caller has enough."""
    transport = _transport(request)
    transport.write(b"HTTP/1.1 200 OK\r\n")
    while not transport.is_closing():
        transport.write(b"x-more: and more\r\n" * 100)
        await asyncio.sleep(0)
    return web.Response()


# None of them does what it is asked, and none may do harm.
HOSTILE: dict[str, Behaviour] = {
    "slow": slow,
    "slow-body": slow_body,
    "huge": huge,
    "announces-huge": announces_huge,
    "redirects": redirects,
    "wrong-json": says(b"<html>not what you asked for</html>"),
    "no-object": says([1, 2]),
    "no-utf-8": says(b'{"output": "\xff\xfe"}'),
    "deep-json": says(b'{"output":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "bombs": bombs,
    "dies": dies,
    "hangs-up": hangs_up,
    "endless-head": endless_head,
    "continues": continues,
    "says-error": says({"status": "error", "error_message": "I cannot do that"}),
    "fails": says({"detail": "out of order"}, status=500),
}


@asynccontextmanager
async def agent_server(behaviour: Behaviour = good, port: int = 0) -> AsyncIterator[ScriptedAgent]:
    """Serve until the block ends."""
    agent = ScriptedAgent(behaviour)
    app = web.Application(client_max_size=HUGE_BYTES)
    app.router.add_post("/execute", agent.execute)
    app.router.add_get("/health", agent.look)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield agent
    finally:
        agent.gate.set()
        await runner.cleanup()


async def _call(request: web.Request) -> Call:
    whole = await request.read()
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Call(request.path, headers, json.loads(whole) if whole else None)


async def _begin(
    request: web.Request, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json", **(headers or {})})
    await response.prepare(request)
    return response


def _transport(request: web.Request) -> asyncio.Transport:
    assert isinstance(request.transport, asyncio.Transport)
    return request.transport
