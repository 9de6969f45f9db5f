"""A house whose sandbox runs scripts for a test, and a caller of it."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from app.asgi import Insula
from app.door import Door
from app.modules.sandbox.module import SandboxModule
from tests.house import AUTHORIZED, LEAN, alive, environment, prepare
from tests.waiting import until

FINAL = frozenset({"completed", "error", "timeout"})
# Runs until it is stopped, and leaves the processor alone.
ENDLESS = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
ASKS = "print('before', flush=True)\nanswer = llm.complete('why?')\nset_result(answer)"
PASSWORD = "long enough for a test"


class Frame:
    """A server-sent event. ``id`` is empty where it has none."""

    def __init__(self, block: str) -> None:
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        self.id = lines.get("id", "")
        self.name = lines["event"]
        self.data: dict[str, Any] = json.loads(lines["data"])

    @property
    def word(self) -> str:
        """A state by its name, everything else by the event's."""
        return self.data["status"] if self.name == "status" else self.name


class Desk:
    """One caller of a house's sandbox."""

    def __init__(self, house: Insula, door: Door, client: httpx.AsyncClient, prefix: str) -> None:
        self.house = house
        self.door = door
        self.client = client
        self.prefix = prefix
        self.headers = AUTHORIZED

    @property
    def sandbox(self) -> SandboxModule:
        return next(m for m in self.house.block.modules if isinstance(m, SandboxModule))

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(self.prefix + path, headers=self.headers | headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.client.post(
            self.prefix + path, json=body, headers=self.headers | headers, timeout=60
        )

    async def run(self, code: str, **given: Any) -> dict[str, Any]:
        """The script's answer, when it has ended or asks."""
        answer = await self.post("/execute?wait=1", {"code": code, **given})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def submit(self, code: str, **given: Any) -> str:
        answer = await self.post("/execute", {"code": code, **given})
        assert answer.status_code == 202, answer.text
        return answer.json()["execution_id"]

    async def refused(self, code: str = "", **given: Any) -> httpx.Response:
        return await self.post("/execute", {"code": code, **given})

    async def read(self, execution_id: str) -> dict[str, Any]:
        answer = await self.get(f"/executions/{execution_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def waited(self, execution_id: str) -> dict[str, Any]:
        """The same, when it has ended or asks."""
        return (await self.get(f"/executions/{execution_id}?wait=1")).json()

    async def is_in(self, execution_id: str, *statuses: str) -> dict[str, Any]:
        async def found() -> dict[str, Any] | None:
            now = await self.read(execution_id)
            return now if now["status"] in statuses else None

        return await until(found)

    async def begun(self, code: str = ENDLESS, **given: Any) -> str:
        """A script that has printed something, and goes on."""
        execution_id = await self.submit(code, **given)

        async def has_printed() -> bool:
            return bool((await self.read(execution_id))["stdout"])

        await until(has_printed)
        return execution_id

    async def asking(self, code: str = ASKS, **given: Any) -> tuple[str, str]:
        """A paused script, and the name of its question."""
        read = await self.run(code, **given)
        assert read["status"] == "awaiting_llm", read
        return read["execution_id"], read["llm_request"]["request_id"]

    async def respond(self, execution_id: str, response: Any, **more: Any) -> httpx.Response:
        return await self.post(
            f"/executions/{execution_id}/respond", {"response": response, **more}
        )

    async def cancel(self, execution_id: str) -> httpx.Response:
        return await self.post(f"/executions/{execution_id}/cancel")

    async def events(self, execution_id: str, after: str = "") -> list[Frame]:
        """All events of an execution that ends."""
        headers = {"last-event-id": after} if after else {}
        answer = await self.get(f"/executions/{execution_id}/events", **headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return frames(answer.text)

    async def heard(self, execution_id: str, event: str) -> None:
        """Wait until the log of its run has this event."""
        runs = next(m for m in self.house.block.modules if m.name == "runs").runs
        user_id = (await self.client.get("/api/v1/auth/me", headers=self.headers)).json()["id"]
        async with asyncio.timeout(10):
            async for one in runs.follow(UUID(user_id), UUID(execution_id), after_seq=0):
                if one.name == event:
                    return

    async def story(self, execution_id: str) -> list[str]:
        return [frame.word for frame in await self.events(execution_id)]

    async def artifact(self, execution_id: str, name: str) -> httpx.Response:
        return await self.get(f"/executions/{execution_id}/artifacts/{name}")

    async def project(self, name: str, replicas: int = 1, **document: Any) -> None:
        """Make a project and bring it up."""
        made = await self.client.put(
            f"{self.prefix}/projects/{name}", json=document, headers=self.headers
        )
        assert made.status_code == 200, made.text
        up = await self.post(f"/projects/{name}/up", {"replicas": replicas})
        assert up.status_code == 200, up.text

    async def works(self) -> bool:
        """Whether the next execution does what it should."""
        return (await self.run("set_result(6 * 7)"))["result"] == 42

    async def guest(self, email: str) -> "Desk":
        """Somebody else, who owns nothing here."""
        made = await self.client.post(
            "/api/v1/auth/register", json={"email": email, "password": PASSWORD}
        )
        assert made.status_code in {200, 201}, made.text
        guest = Desk(self.house, self.door, self.client, self.prefix)
        guest.headers = {"authorization": f"Bearer {made.json()['access_token']}"}
        return guest


class Following:
    """A client that reads an execution's events as they come, and may hang up."""

    def __init__(self, desk: Desk, execution_id: str, after: str = "") -> None:
        self._text = ""
        self._gone = asyncio.Event()
        self._is_asked = False
        path = f"{desk.prefix}/executions/{execution_id}/events"
        headers = {"host": "127.0.0.1", "last-event-id": after, **desk.headers}
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }
        self.reading = asyncio.create_task(desk.door(scope, self._receive, self._send))

    @property
    def frames(self) -> list[Frame]:
        return frames(self._text)

    def hang_up(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if not self._is_asked:
            self._is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self._text += message.get("body", b"").decode()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.hang_up()


def frames(text: str) -> list[Frame]:
    """The whole events of a stream, without its signs of life."""
    whole = text.rpartition("\n\n")[0]
    return [Frame(block) for block in whole.split("\n\n") if block and block[0] != ":"]


def file(name: str, data: bytes) -> dict[str, str]:
    """A file as a request carries it."""
    return {"name": name, "content_base64": b64encode(data).decode()}


@asynccontextmanager
async def open_desk(data: Path, prefix: str = "/sandbox", **variables: str) -> AsyncIterator[Desk]:
    """The house on this data, and its owner."""
    settings = {**LEAN, "FEATURE_SANDBOX": "on", "SANDBOX_PREFIX": prefix, **variables}
    house = Insula(environment(prepare(data), **settings))
    door = house.door()
    transport = httpx.ASGITransport(door, raise_app_exceptions=False, client=("127.0.0.1", 5000))
    async with (
        alive(door),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        yield Desk(house, door, client, prefix.rstrip("/"))
