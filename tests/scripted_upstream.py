"""Real servers on loopback that play an upstream, well-behaved or not.

``scripted_upstream`` speaks HTTP and behaves by model name; ``raw_server`` sends the bytes that
its script says, and is for what an HTTP server would never do.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from tests.waiting import until

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
MODELS = (
    "good",
    "no-usage",
    "refuses",
    "hangs",
    "dies-plain",
    "dies-streaming",
    "ends-early",
    "hangs-streaming",
    "errors-in-stream",
    "garbage",
    "redirects",
    "huge",
    "error-400",
    "error-401",
    "error-429",
    "error-500",
    "error-503-bare",
    "slow",
    "errors-at-once",
    "late",
    "hangs-first",
)


WHOLE = {
    "redirects": lambda: web.Response(status=302, headers={"location": "http://169.254.169.254/"}),
    "garbage": lambda: web.Response(text="<html>not what you asked for</html>"),
    "huge": lambda: web.json_response({"choices": [], "padding": "x" * 2_000_000}),
}


class ScriptedUpstream:
    """Remembers what it was sent, and how many requests were cut or are still open."""

    def __init__(self) -> None:
        self.base_url = ""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.bodies: list[bytes] = []
        self.authorizations: list[str] = []
        self.paths: list[str] = []
        self.sessions: list[str] = []
        self.refused: set[str] = set()
        self.open = 0
        self.cut = 0
        self.models = list(MODELS)
        self.release = asyncio.Event()

    async def tidy(self) -> None:
        """Let go of whoever still waits, and forget everything."""
        self.release.set()
        await until(lambda: self.open == 0)
        self._begin_anew()

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def call(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        self.authorizations.append(request.headers.get("authorization", ""))
        self.paths.append(request.path)
        self.sessions.append(request.headers.get("x-session-id", ""))
        if self.authorizations[-1].removeprefix("Bearer ") in self.refused:
            return self._error("error-401")
        self.open += 1
        try:
            return await self._play(json.loads(body), request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cut += 1
            raise
        finally:
            self.open -= 1

    async def _play(self, asked: dict, request: web.Request) -> web.StreamResponse:
        model = asked["model"]
        if model.startswith("error-"):
            return self._error(model)
        if model in WHOLE:
            return WHOLE[model]()
        if model == "dies-plain":
            request.transport.abort()
        if asked.get("stream"):
            return await self._stream(model, asked, request)
        if model in {"slow", "hangs"}:
            await self.release.wait()
        return web.json_response(self._answer(request.path, model))

    def _error(self, model: str) -> web.Response:
        status = int(model.split("-")[1])
        if model.endswith("bare"):
            return web.Response(status=status, text="oh no", headers={"retry-after": "7"})
        error = {"message": f"scripted {status}", "type": "x", "param": None, "code": "scripted"}
        return web.json_response({"error": error}, status=status, headers={"retry-after": "3"})

    def _answer(self, path: str, model: str) -> dict:
        if path.endswith("embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.5]}]
            return {"object": "list", "data": data, "model": model, "usage": USAGE}
        choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}}
        answer = {"id": "a", "object": "chat.completion", "model": model, "choices": [choice]}
        return answer if model == "no-usage" else answer | {"usage": USAGE}

    async def _stream(self, model: str, asked: dict, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        if not await self._begin(model, request, response):
            return response
        for word in ("hel", "lo"):
            await response.write(_event(model, [{"index": 0, "delta": {"content": word}}]))
        if model == "dies-streaming":
            request.transport.abort()
        if model in {"hangs-streaming", "slow", "hangs"}:
            await self.release.wait()
        if model == "errors-in-stream":
            await response.write(b'data: {"error":{"message":"scripted","type":"x"}}\n\n')
        if model == "ends-early":
            return response
        if model != "no-usage" and (asked.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(model, [], usage=USAGE))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _begin(self, model: str, request: web.Request, response: web.StreamResponse) -> bool:
        """Whatever a model does before its first word; whether there is one."""
        if model == "late":
            await self.release.wait()
        await response.prepare(request)
        if model in {"hangs-first", "errors-at-once"}:
            await response.write(_event(model, [{"index": 0, "delta": {"role": "assistant"}}]))
        if model == "hangs-first":
            await self.release.wait()
        if model == "errors-at-once":
            await response.write(b'data: {"error":{"message":"scripted","code":503}}\n\n')
        return model != "errors-at-once"


def _event(model: str, choices: list, **extra) -> bytes:
    chunk = {"id": "s", "object": "chat.completion.chunk", "model": model, "choices": choices}
    return b"data: " + json.dumps(chunk | extra).encode() + b"\n\n"


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """Serve until the block ends."""
    played = ScriptedUpstream()
    app = web.Application()
    app.router.add_get("/v1/models", played.list)
    for surface in ("chat/completions", "completions", "embeddings", "responses", "messages"):
        app.router.add_post(f"/v1/{surface}", played.call)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    played.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield played
    finally:
        played.release.set()
        await runner.cleanup()


class Peer:
    """The server's end of one connection, in the hands of a script."""

    def __init__(
        self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.number = server.accepted
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """Read a whole request; the script ends here when the client has hung up."""
        head = await self.head()
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        request = head + await self._reader.readexactly(size)
        self.server.requests.append(request)
        self.server.served.append(self.number)
        return request

    async def head(self) -> bytes:
        """Read the head of a request, and leave its body where it is."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def send(self, *pieces: bytes) -> None:
        """Send each piece so that the client reads it by itself."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            for _ in range(4):
                await asyncio.sleep(0)

    async def send_until_blocked(self, limit_bytes: int) -> int:
        """Send until the client takes no more for a while; return how many bytes that were."""
        sent = 0
        with suppress(TimeoutError):
            while sent < limit_bytes:
                self._writer.write(bytes(65_536))
                sent += 65_536
                async with asyncio.timeout(0.3):
                    await self._writer.drain()
        return sent

    async def gone(self) -> None:
        """Wait until the client hangs up."""
        with suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass
        self.server.hung_up += 1

    def reset(self) -> None:
        """Break the connection off without the word that it ends."""
        door = self._writer.get_extra_info("socket")
        door.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class RawServer:
    """Plays ``script`` on every connection, and closes the connection after it.

    Remembers the requests, the number of the connection that each came by, and how many
    connections there were, are open, and were hung up by the client.
    """

    def __init__(self, script: Script) -> None:
        self.requests: list[bytes] = []
        self.served: list[int] = []
        self.accepted = 0
        self.open = 0
        self.hung_up = 0
        self.port = 0
        self._script = script
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self.accepted += 1
        self.open += 1
        try:
            await self._script(Peer(self, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up += 1
        except asyncio.CancelledError:
            # The test is over, and so is this task.
            writer.transport.abort()
        finally:
            self.open -= 1
            writer.close()

    async def stop(self) -> None:
        for task in self._serving.copy():
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)


@asynccontextmanager
async def raw_server(script: Script, host: str = "127.0.0.1") -> AsyncIterator[RawServer]:
    """Serve until the block ends."""
    played = RawServer(script)
    server = await asyncio.start_server(played.serve, host, 0)
    played.port = server.sockets[0].getsockname()[1]
    try:
        yield played
    finally:
        server.close()
        await played.stop()
