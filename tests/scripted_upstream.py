"""A real HTTP server on loopback that plays an upstream, well-behaved or not, by model name."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

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
)


WHOLE = {
    "redirects": lambda: web.Response(status=302, headers={"location": "http://169.254.169.254/"}),
    "garbage": lambda: web.Response(text="<html>not what you asked for</html>"),
    "huge": lambda: web.json_response({"choices": [], "padding": "x" * 2_000_000}),
}


class ScriptedUpstream:
    """Remembers what it was sent, and how many requests were cut or are still open."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.authorizations: list[str] = []
        self.open = 0
        self.cut = 0
        self.models = list(MODELS)
        self.release = asyncio.Event()
        self.base_url = ""

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def call(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        self.authorizations.append(request.headers.get("authorization", ""))
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
        await response.prepare(request)
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
        if (asked.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(model, [], usage=USAGE))
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(model: str, choices: list, **extra) -> bytes:
    chunk = {"id": "s", "object": "chat.completion.chunk", "model": model, "choices": choices}
    return b"data: " + json.dumps(chunk | extra).encode() + b"\n\n"


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """Serve until the block ends."""
    played = ScriptedUpstream()
    app = web.Application()
    app.router.add_get("/v1/models", played.list)
    for surface in ("chat/completions", "completions", "embeddings"):
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
