"""A server that is killed, or whose disk is full: nothing that it said is lost, nothing is left."""

import asyncio
import hashlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from app.adapters.blobs.local import LocalBlobStore
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from tests.house import AUTHORIZED, RunningServer, running_server
from tests.modules.storage.stockrooms import Stockroom
from tests.waiting import until

pytestmark = pytest.mark.slow

RECORDS = "/api/v1/storage/records"
WRITERS = 6
ANSWERS = 60
RAW = {"content-type": "application/octet-stream", "x-table": "notes"}
VARIABLES = {"STORAGE_INLINE_BYTES": "1024"}
MIB = 2**20


def made(number: int) -> bytes:
    """Bytes of their own for each number; every third body lies in the database."""
    size = 600 if number % 3 == 0 else 50_000
    return hashlib.shake_256(number.to_bytes(4, "big")).digest(size)


class Writer:
    """Puts, replaces and deletes one record until the server is gone."""

    def __init__(self, client: httpx.AsyncClient, number: int) -> None:
        self.path = f"{RECORDS}/{uuid4()}"
        # What it held when the last answer came, and what it holds if the last request was done.
        self.promised: bytes | None = None
        self.maybe: bytes | None = None
        self.answers = 0
        self._client = client
        self._number = number * 1000

    async def run(self) -> None:
        while True:
            self._number += 1
            is_deletion = self.promised is not None and self._number % 5 == 0
            self.maybe = None if is_deletion else made(self._number)
            try:
                answer = await self._ask()
            except httpx.TransportError:
                return
            assert answer.is_success, answer.text
            self.promised = self.maybe
            self.answers += 1

    async def _ask(self) -> httpx.Response:
        condition = {"if-none-match": "*"} if self.promised is None else {"if-match": "*"}
        headers = AUTHORIZED | RAW | condition
        if self.maybe is None:
            return await self._client.delete(self.path, headers=headers)
        return await self._client.put(self.path, content=self.maybe, headers=headers)


async def endless(begun: asyncio.Event) -> AsyncIterator[bytes]:
    yield bytes(MIB)
    begun.set()
    await asyncio.Event().wait()


async def streaming(client: httpx.AsyncClient, begun: asyncio.Event) -> None:
    headers = AUTHORIZED | RAW | {"if-none-match": "*", "content-length": str(9 * MIB)}
    await client.put(f"{RECORDS}/{uuid4()}", content=endless(begun), headers=headers)


async def held(client: httpx.AsyncClient, path: str) -> bytes | None:
    answer = await client.get(path, headers=AUTHORIZED)
    return answer.content if answer.status_code == 200 else None


async def swept(data: Path) -> Stockroom:
    """The store when everybody who was in the middle of something must be gone."""
    db = Database(f"sqlite+insula:///{data / 'insula.db'}", JobBook())
    room = Stockroom(db, LocalBlobStore(data / "blobs"))
    await room.sweep_late()
    return room


async def check(data: Path) -> None:
    room = await swept(data)
    stock, findings = await room.stock(), await room.inventory.take()
    await room.db.close()

    assert stock.part_bytes == stock.blob_bytes > 0
    assert stock.reserved_bytes == 0
    assert stock.states.keys() <= {"body kept", "part kept"}
    assert findings.is_sound, findings


class TestKill:
    async def test_in_the_middle_of_everything_loses_and_leaves_nothing(self, tmp_path):
        async with running_server(tmp_path / "data", **VARIABLES) as server:
            async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
                begun = asyncio.Event()
                writers = [Writer(client, number) for number in range(WRITERS)]
                tasks = [asyncio.create_task(writer.run()) for writer in writers]
                stream = asyncio.create_task(streaming(client, begun))
                await begun.wait()
                enough = lambda: sum(writer.answers for writer in writers) >= ANSWERS  # noqa: E731
                await until(enough, within_s=60)
                server.kill()
                # It waits for more to send, and would not see that nobody listens.
                stream.cancel()
                await asyncio.gather(*tasks)
                await asyncio.wait([stream])
            await server.start()
            async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
                found = [await held(client, writer.path) for writer in writers]

        for writer, data in zip(writers, found, strict=True):
            assert data in {writer.promised, writer.maybe}
        await check(tmp_path / "data")


def limit_files(server: RunningServer, size_bytes: int) -> None:
    """No file of the server's may grow beyond this: a disk that is full for what is large."""
    for pid in server.pids:
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, most))


class TestFullDisk:
    async def test_refuses_shows_nothing_and_recovers(self, tmp_path):
        async with (
            running_server(tmp_path / "data", **VARIABLES) as server,
            httpx.AsyncClient(base_url=server.base_url, timeout=60, headers=AUTHORIZED) as client,
        ):

            async def put(record_id: UUID, size: int) -> httpx.Response:
                path, headers = f"{RECORDS}/{record_id}", RAW | {"if-none-match": "*"}
                return await client.put(path, content=bytes(size), headers=headers)

            limit_files(server, 8 * MIB)
            record_id = uuid4()
            refused = await put(record_id, 9 * MIB)
            seen = await client.get(f"{RECORDS}/{record_id}")
            usage = await client.get("/api/v1/storage/usage")
            smaller = await put(uuid4(), MIB)
            limit_files(server, resource.RLIM_INFINITY)
            again = await put(record_id, 9 * MIB)

        assert (refused.status_code, refused.json()["type"]) == (507, "urn:problem:blobs-full")
        assert seen.status_code == 404
        assert (usage.json()["used_bytes"], usage.json()["reserved_bytes"]) == (0, 0)
        assert (smaller.status_code, again.status_code) == (201, 201)
        await check(tmp_path / "data")
