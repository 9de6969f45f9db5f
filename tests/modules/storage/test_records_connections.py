"""Readers and senders of records who leave half way."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import pytest

from app.modules.storage.controllers.sending import Streamed
from tests.modules.storage.desks import Desk, sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGE = b"large" * 4000


class Endless:
    """Bytes without an end, which know whether anybody still holds them."""

    def __init__(self) -> None:
        self.is_closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"more"
        finally:
            self.is_closed = True


async def send_half(desk: Desk, record_id: Any) -> list[Any]:
    """A connection that ends in the middle of a body; what it would have been answered."""
    headers = {
        **desk.headers,
        "content-length": str(len(LARGE)),
        "x-table": "notes",
        "x-checksum": sha256(LARGE),
        "if-none-match": "*",
    }
    path = f"/api/v1/storage/records/{record_id}"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    coming = [
        {"type": "http.request", "body": LARGE[:1000], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await desk.house.door()(scope, receive, send)
    return sent


class TestSender:
    async def test_who_leaves_half_way_leaves_nothing(self, fresh):
        record_id = uuid4()

        sent = await send_half(fresh, record_id)

        usage = await fresh.usage()
        assert sent[0]["status"] == 400
        assert b"body-truncated" in sent[1]["body"]
        assert (usage["used_bytes"], usage["reserved_bytes"]) == (0, 0)
        assert (await fresh.get(record_id)).status_code == 404


class TestReader:
    async def test_who_leaves_half_way_holds_nothing_open(self):
        body, is_reading = Endless(), asyncio.Event()

        async def receive() -> Any:
            await is_reading.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            is_reading.set()
            await asyncio.sleep(0)

        await Streamed(body.chunks())({"type": "http"}, receive, send)

        assert body.is_closed

    async def test_whose_connection_breaks_holds_nothing_open(self):
        body = Endless()

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                raise ConnectionResetError

        with pytest.raises(BaseExceptionGroup):
            await Streamed(body.chunks())({"type": "http"}, receive, send)

        assert body.is_closed
