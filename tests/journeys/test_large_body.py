"""A large body up and down: the server's memory stays as it was."""

import hashlib
import itertools
from collections.abc import AsyncIterator
from functools import cache

import aiohttp
import psutil
import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, RunningServer, running_server
from tests.modules.storage.shipments import BACKUP, UPLOADS

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

MIB = 2**20
SIZE_BYTES = 192 * MIB
PART_BYTES = 64 * MIB
MORE_BYTES = 32 * MIB
CHUNK = hashlib.shake_256(b"sealed").digest(MIB)


class Server:
    """A running server, whose memory is looked at with every chunk that goes up or down."""

    def __init__(self, running: RunningServer, session: aiohttp.ClientSession) -> None:
        self._processes = [psutil.Process(pid) for pid in running.pids]
        self.session = session
        self.most_bytes = 0
        self.versions = itertools.count(1)

    def look(self) -> int:
        now = sum(process.memory_info().rss for process in self._processes)
        self.most_bytes = max(self.most_bytes, now)
        return now

    async def chunks(self, size_bytes: int) -> AsyncIterator[bytes]:
        for _ in range(size_bytes // MIB):
            self.look()
            yield CHUNK

    async def back_up(self, version: int, size_bytes: int) -> int:
        about = {
            "content-length": str(size_bytes),
            "x-backup-version": str(version),
            "x-backup-timestamp": "1",
            "x-backup-checksum": sha256_of(size_bytes),
        }
        async with self.session.put(BACKUP, data=self.chunks(size_bytes), headers=about) as answer:
            return answer.status

    async def put_part(self, upload_id: str, number: int) -> int:
        path, length = f"{UPLOADS}/{upload_id}/parts/{number}", {"content-length": str(PART_BYTES)}
        async with self.session.put(path, data=self.chunks(PART_BYTES), headers=length) as answer:
            return answer.status

    async def download(self) -> str:
        """The SHA-256 of the latest backup."""
        digest = hashlib.sha256()
        async with self.session.get(BACKUP) as answer:
            async for chunk in answer.content.iter_chunked(MIB):
                self.look()
                digest.update(chunk)
        return digest.hexdigest()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One that has taken in and given out a body before."""
    async with (
        running_server(tmp_path_factory.mktemp("server") / "data") as running,
        aiohttp.ClientSession(running.base_url, headers=AUTHORIZED) as session,
    ):
        found = Server(running, session)
        await found.back_up(next(found.versions), 2 * MIB)
        await found.download()
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def before(server: Server) -> int:
    """The memory before anything large came."""
    return server.look()


@cache
def sha256_of(size_bytes: int) -> str:
    """Of so many bytes as they are sent."""
    digest = hashlib.sha256()
    for _ in range(size_bytes // MIB):
        digest.update(CHUNK)
    return digest.hexdigest()


class TestMemory:
    async def test_stays_flat_while_a_large_body_goes_up_and_down(self, server, before):
        status = await server.back_up(next(server.versions), SIZE_BYTES)
        found = await server.download()

        assert (status, found) == (201, sha256_of(SIZE_BYTES))
        assert server.most_bytes - before < MORE_BYTES

    async def test_stays_flat_while_it_comes_in_parts(self, server, before):
        order = {
            "target": "backup",
            "version": next(server.versions),
            "timestamp": 1,
            "size_bytes": SIZE_BYTES,
            "part_bytes": PART_BYTES,
        }
        async with server.session.post(UPLOADS, json=order) as answer:
            upload_id = (await answer.json())["id"]

        numbers = range(1, SIZE_BYTES // PART_BYTES + 1)
        statuses = [await server.put_part(upload_id, number) for number in numbers]
        async with server.session.post(f"{UPLOADS}/{upload_id}/complete") as answer:
            told = await answer.json()
        found = await server.download()

        assert set(statuses) == {200}
        assert told["checksum"] == found == sha256_of(SIZE_BYTES)
        assert server.most_bytes - before < MORE_BYTES
