"""Serves one local MLX model in OpenAI's dialect, on loopback, as a process of its own.

``python -m app.modules.routing.adapters.mlx_child --model PATH_OR_REPOSITORY``

MLX and Metal end the process they are in when something goes wrong, so this is not the server's.
The parent holds the other end of stdin: when it dies, however it dies, stdin ends and so does the
child. The one line on stdout tells the parent the port, or why there is none.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from time import time
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from app.modules.routing.adapters.mlx_engine import Engine, EngineOptions
from app.modules.routing.adapters.mlx_jobs import (
    Delta,
    Ended,
    EngineFailed,
    Job,
    Refusal,
    ReplyJob,
    report,
)
from app.modules.routing.adapters.mlx_wire import (
    ChatCreate,
    CompletionCreate,
    EmbeddingCreate,
    Frames,
    Json,
    error_body,
)

BODY_LIMIT_BYTES: Final = 33_554_432
RETRY_AFTER_S: Final = 1
# A step is one token of everybody and one piece of a prompt. None takes this long on a machine
# that is well, however large the model.
STUCK_AFTER_S: Final = 120.0
DRAIN_S: Final = 1.0
STOP_S: Final = 5.0
STDIN: Final = 0

Asked = TypeVar("Asked", ChatCreate, CompletionCreate, EmbeddingCreate)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The HTTP side of an engine."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name
        self._created_s = int(time())

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[_envelope])
        application.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/models", self.models),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completion),
                web.post("/v1/embeddings", self.embedding),
            ]
        )
        return application

    async def health(self, _request: web.Request) -> web.Response:
        is_stuck = self._engine.stuck_for_s > STUCK_AFTER_S
        facts = {
            "status": "stuck" if is_stuck else "ok",
            "active": self._engine.active,
            "waiting": self._engine.waiting,
        }
        return _json(facts, status=503 if is_stuck else 200)

    async def models(self, _request: web.Request) -> web.Response:
        card = {"id": self.name, "object": "model", "created": self._created_s}
        return _json({"object": "list", "data": [card | {"owned_by": "local"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._reply(request, await self._read(request, ChatCreate))

    async def completion(self, request: web.Request) -> web.StreamResponse:
        return await self._reply(request, await self._read(request, CompletionCreate))

    async def embedding(self, request: web.Request) -> web.Response:
        asked = await self._read(request, EmbeddingCreate)
        job = asked.job()
        with self._working_on(job):
            return _json(asked.answer(await job.next()))

    async def _read(self, request: web.Request, kind: type[Asked]) -> Asked:
        try:
            asked = msgspec.json.decode(await request.read(), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _malformed(error) from None
        if asked.model != self.name:
            text = f"There is no model {asked.model[:200]!r} here, only {self.name!r}."
            raise Refusal(text, status=404, param="model", code="model_not_found")
        return asked

    @contextlib.contextmanager
    def _working_on(self, job: Job[Any]) -> Iterator[None]:
        """Queue ``job``, and cancel it when nobody waits for it any more."""
        self._engine.submit(job)
        try:
            yield
        finally:
            job.cancel()

    async def _reply(
        self, request: web.Request, asked: ChatCreate | CompletionCreate
    ) -> web.StreamResponse:
        job, frames = asked.job(), Frames(asked)
        with self._working_on(job):
            # Until there is a first piece an error can still have a status of its own.
            event = await job.next()
            if asked.stream:
                return await _stream(request, job, event, frames)
            deltas: list[Delta] = []
            while isinstance(event, Delta):
                deltas.append(event)
                event = await job.next()
            return _json(frames.whole(deltas, event))


async def _stream(
    request: web.Request, job: ReplyJob, event: Delta | Ended, frames: Frames
) -> web.StreamResponse:
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    with contextlib.suppress(ConnectionError):  # a reader that has gone is owed nothing
        await response.prepare(request)
        await _tell(response, job, event, frames)
    return response


async def _tell(
    response: web.StreamResponse, job: ReplyJob, event: Delta | Ended, frames: Frames
) -> None:
    await _send(response, *frames.opening())
    try:
        while isinstance(event, Delta):
            await _send(response, frames.piece(event))
            event = await job.next()
    except Refusal as refusal:
        await response.write(b"data: " + error_body(refusal) + b"\n\n")
    else:
        await _send(response, *frames.closing(event))
        await response.write(b"data: [DONE]\n\n")


async def _send(response: web.StreamResponse, *chunks: Json) -> None:
    text = b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks)
    if text:
        await response.write(text)


@web.middleware
async def _envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every error OpenAI's shape."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _refused(refusal)
    except web.HTTPException as error:
        return _refused(Refusal(error.reason, status=error.status))
    except ConnectionError:
        return _refused(Refusal("The request broke off."))
    except Exception as error:  # noqa: BLE001 - aiohttp would log what it says, and that may be a prompt
        report(error)
        return _refused(EngineFailed())


def _refused(refusal: Refusal) -> web.Response:
    headers = {"retry-after": str(RETRY_AFTER_S)} if refusal.status == 503 else {}
    return web.Response(
        body=error_body(refusal),
        status=refusal.status,
        headers=headers,
        content_type="application/json",
    )


def _json(body: Json, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def _malformed(error: Exception) -> Refusal:
    """Name the field that msgspec complains about."""
    found = re.search(r"`\$\.(\w+)", str(error))
    return Refusal(str(error), param=found[1] if found else None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlx_child", description=__doc__)
    parser.add_argument("--model", required=True, help="a folder, or a repository to download")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--cache-bytes", type=int, default=2**31, help="of freed memory kept")
    parser.add_argument("--parallel", type=int, default=4, help="requests worked on at once")
    parser.add_argument("--queue", type=int, default=32, help="requests that may wait")
    return parser.parse_args()


def _watch_stdin(loop: asyncio.AbstractEventLoop, ending: asyncio.Event) -> None:
    """End the process when the parent's end of stdin is gone."""

    def watch() -> None:
        # Not through sys.stdin: its lock, held by a thread at exit, aborts the interpreter.
        while os.read(STDIN, 4096):
            pass
        loop.call_soon_threadsafe(ending.set)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


async def _serve(
    server: Server, port: int, announce: Callable[[Json], None], ending: asyncio.Event
) -> None:
    runner = web.AppRunner(
        server.application(), handler_cancellation=True, access_log=None, shutdown_timeout=DRAIN_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        announce({"port": runner.addresses[0][1], "model": server.name})
        await ending.wait()
    finally:
        await runner.cleanup()


async def _run(arguments: argparse.Namespace, announce: Callable[[Json], None]) -> int:
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    _watch_stdin(loop, ending)
    engine = Engine(
        EngineOptions(arguments.model, arguments.cache_bytes, arguments.parallel, arguments.queue)
    )
    ready = engine.start()
    try:
        ended = asyncio.create_task(ending.wait())
        either: list[asyncio.Future[Any]] = [ready, ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if ready.done() and (problem := ready.exception()):
            announce({"error": str(problem)})
            return 1
        if ready.done():
            await _serve(Server(engine, _name(arguments.model)), arguments.port, announce, ending)
    finally:
        if not engine.stop(STOP_S):
            # The thread is inside MLX and cannot be ended; the usual way out would wait for it.
            os._exit(1)
    return 0


def _name(model: str) -> str:
    """Return the repository, or the name of the folder."""
    path = Path(model)
    return path.resolve().name if path.exists() else model


def main() -> int:
    arguments = _arguments()
    stdout = sys.stdout

    def announce(line: Json) -> None:
        stdout.write(msgspec.json.encode(line).decode() + "\n")
        stdout.flush()

    # Libraries print what they like; the parent expects one line.
    with contextlib.redirect_stdout(sys.stderr):
        return asyncio.run(_run(arguments, announce))


if __name__ == "__main__":
    sys.exit(main())
