"""A sandbox that keeps to its script, for whoever asks one over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

ID = "5b4c1f0e-0000-7000-8000-000000000001"
# Closes the connection in the middle of whatever it is saying.
DROP = object()
# Says nothing more until there is an answer, or until the execution is cancelled.
UNTIL_ANSWERED = object()
UNTIL_CANCELLED = object()
PLACE = "/sandbox"


def frame(name: str, number: int | None = None, **data: object) -> bytes:
    begin = f"id: {number}\n" if number is not None else ""
    return f"{begin}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def ended(status: str = "completed", **left: object) -> bytes:
    return frame("result", execution_id=ID, status=status, **left)


def asked(number: int, prompt: str = "Why?") -> bytes:
    return frame("llm_request", number, prompt=prompt, model="default", request_id=str(number))


class Scripted:
    """A sandbox that plays one list of frames a connection, and notes what it is asked.

    ``refusals``: what ``execute`` answers first.
    """

    def __init__(self, *connections: list, **replies) -> None:
        self._connections = list(connections)
        self.refusals: list = replies.get("refusals", [])
        self.respond_status: int = replies.get("respond_status", 200)
        self.files: dict[str, bytes] = replies.get("files", {})
        self.orders: list[dict] = []
        self.keys: list[str] = []
        self.once: list[str] = []
        self.last_ids: list[str] = []
        self.answers: list[dict] = []
        self.cancelled: list[str] = []
        self.answered = asyncio.Event()
        self.stopped = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=2**24)
        place = f"{PLACE}/executions/{{id}}"
        app.router.add_post(f"{PLACE}/execute", self._execute)
        app.router.add_get(f"{place}/events", self._events)
        app.router.add_post(f"{place}/respond", self._respond)
        app.router.add_post(f"{place}/cancel", self._cancel)
        app.router.add_get(f"{place}/artifacts/{{name}}", self._artifact)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _execute(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("authorization", ""))
        self.once.append(request.headers["idempotency-key"])
        self.orders.append(await request.json())
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is DROP:
            request.transport.abort()
        if isinstance(refusal, web.Response):
            return refusal
        poll_url = f"{request.url.parent}/executions/{ID}"
        told = {"execution_id": ID, "status": "pending", "poll_url": poll_url}
        return web.json_response(told, status=202)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self.last_ids.append(request.headers.get("last-event-id", ""))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in self._connections.pop(0):
            if part is DROP:
                request.transport.abort()
            elif part is UNTIL_ANSWERED:
                await self.answered.wait()
            elif part is UNTIL_CANCELLED:
                await self.stopped.wait()
            else:
                await response.write(part)
        return response

    async def _respond(self, request: web.Request) -> web.Response:
        self.answers.append(await request.json())
        self.answered.set()
        return web.json_response({"detail": "Too late."}, status=self.respond_status)

    async def _cancel(self, request: web.Request) -> web.Response:
        self.cancelled.append(request.match_info["id"])
        self.stopped.set()
        return web.json_response({})

    async def _artifact(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["name"]])
