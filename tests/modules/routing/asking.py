"""What the tests of the gateway do with a house: ask, and look at what is left behind."""

import asyncio
from uuid import uuid4

from sqlalchemy import delete

from app.modules.billing.models import UsageRow
from app.modules.routing.models import AliasRow, CacheRow, ModelRow, PriceRow
from tests.house import AUTHORIZED

CHAT = "/v1/chat/completions"


async def tidy(client) -> None:
    """Leave a house as it was opened: nobody has asked, and it knows what its upstreams list."""
    client.headers.update(AUTHORIZED)
    await module(client, "billing").meter.flush()
    async with client.house.db.begin() as session:
        for table in (UsageRow, AliasRow, CacheRow, ModelRow, PriceRow):
            await session.execute(delete(table))
    for key in list(client.house.cache._entries):
        await client.house.cache.delete(key)
    gates = module(client, "routing").gates
    gates._gates.clear()
    gates._paces.clear()
    await module(client, "routing").registry.discover()


def body(model: str = "good", **more) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


def module(client, name: str):
    return next(m for m in client.house.block.modules if m.name == name)


async def usages(client) -> list[dict]:
    await module(client, "billing").meter.flush()
    answer = await client.get("/api/v1/usage", params={"limit": 500})
    return answer.json()["items"][::-1]


async def put(client, name: str, *places: tuple[str, str], policy: str = "ordered", **more):
    targets = [{"upstream": upstream, "model": model} for upstream, model in places]
    answer = await client.put(
        f"/api/v1/routing/models/{name}", json={"targets": targets, "policy": policy, **more}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def new_key(client, **more) -> dict[str, str]:
    made = await client.post("/api/v1/auth/api-keys", json={"name": "k", **more})
    return {"authorization": f"Bearer {made.json()['key']}"}


async def new_user(client) -> dict[str, str]:
    body = {"email": f"{uuid4().hex}@example.com", "password": "long enough"}
    made = await client.post("/api/v1/auth/register", json=body)
    return {"authorization": f"Bearer {made.json()['access_token']}"}


class Caller:
    """A client of a raw ASGI application that can hang up at any moment."""

    def __init__(self, app, path: str, content: bytes) -> None:
        headers = [(name.encode(), value.encode()) for name, value in AUTHORIZED.items()]
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [*headers, (b"host", b"127.0.0.1")],
            "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }
        self._app = app
        self._gone = asyncio.Event()
        self._inbox = [{"type": "http.request", "body": content, "more_body": False}]
        self.heard: list[dict] = []
        self.running = asyncio.create_task(self._app(self._scope, self._receive, self._send))

    def hang_up(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict:
        if self._inbox:
            return self._inbox.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        self.heard.append(message)
