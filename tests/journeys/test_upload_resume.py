"""An upload that outlives its server: killed between parts and in the middle of one."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.house import RunningServer, running_server
from tests.modules.storage.desks import sha256
from tests.modules.storage.shipments import UPLOADS, Sender, cut
from tests.waiting import until

pytestmark = pytest.mark.slow

PART_BYTES = 2**20
BODY = hashlib.shake_256(b"a large body").digest(5 * PART_BYTES + 77)
PARTS = cut(BODY, PART_BYTES)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with running_server(tmp_path / "data") as found:
        yield found


async def interrupted(sender: Sender, server: RunningServer, upload_id: str) -> None:
    """Kill the server when it has half of the last part."""
    is_half = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield PARTS[0][: PART_BYTES // 2]
        is_half.set()
        await asyncio.Event().wait()

    path = f"{UPLOADS}/{upload_id}/parts/3"
    length = {"content-length": str(PART_BYTES)}
    sending = asyncio.create_task(sender.ask("PUT", path, content=half(), headers=length))
    await is_half.wait()
    incoming = server.log.parent / "data" / "blobs" / "incoming~"
    await until(lambda: any(incoming.iterdir()))
    server.kill()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


class TestResume:
    @pytest.mark.parametrize("sent", [0, 1, 3, len(PARTS)])
    async def test_goes_on_after_the_parts_that_were_there(self, server, sent):
        async with httpx.AsyncClient(base_url=server.base_url) as client:
            sender = Sender(client)
            upload_id = await sender.begun(size_bytes=len(BODY), part_bytes=PART_BYTES)
            for number, data in enumerate(PARTS[:sent], 1):
                await sender.send_part(upload_id, number, data)
            server.kill()
            await server.start()

            numbers = await sender.numbers(upload_id)
            for number, data in enumerate(PARTS, 1):
                if number not in numbers:
                    await sender.send_part(upload_id, number, data)
            completed = [await sender.complete(upload_id) for _ in range(2)]
            latest = await sender.latest()

        assert numbers == list(range(1, sent + 1))
        assert [answer.status_code for answer in completed] == [201, 200]
        assert completed[0].json()["checksum"] == sha256(BODY)
        assert latest.content == BODY

    async def test_a_part_that_was_cut_off_is_not_there(self, server):
        async with httpx.AsyncClient(base_url=server.base_url) as client:
            sender = Sender(client)
            upload_id = await sender.begun(size_bytes=len(BODY), part_bytes=PART_BYTES)
            for number in (1, 2):
                await sender.send_part(upload_id, number, PARTS[number - 1])
            await interrupted(sender, server, upload_id)
            await server.start()

            numbers = await sender.numbers(upload_id)
            for number, data in enumerate(PARTS[2:], 3):
                await sender.send_part(upload_id, number, data)
            completed = await sender.complete(upload_id, checksum=sha256(BODY))

        assert numbers == [1, 2]
        assert completed.status_code == 201

    async def test_what_is_committed_survives(self, server):
        async with httpx.AsyncClient(base_url=server.base_url) as client:
            sender = Sender(client)
            upload_id = await sender.begun(size_bytes=len(BODY), part_bytes=PART_BYTES)
            for number, data in enumerate(PARTS, 1):
                await sender.send_part(upload_id, number, data)
            first = await sender.complete(upload_id)
            server.kill()
            await server.start()

            again = await sender.complete(upload_id)
            latest = await sender.latest()

        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
        assert latest.content == BODY
