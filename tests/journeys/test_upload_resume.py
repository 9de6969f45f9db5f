"""An upload that outlives its server: killed between parts and in the middle of one."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, RunningServer, running_server
from tests.modules.storage.desks import Desk, sha256
from tests.modules.storage.shipments import UPLOADS, Sender, cut
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PART_BYTES = 2**20
BODY = hashlib.shake_256(b"a large body").digest(5 * PART_BYTES + 77)
PARTS = cut(BODY, PART_BYTES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    """Each test that kills it starts it again."""
    async with running_server(tmp_path_factory.mktemp("server") / "data") as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def sender(server: RunningServer) -> AsyncIterator[Sender]:
    """Somebody who has nothing there yet, and whom nothing limits."""
    async with httpx.AsyncClient(base_url=server.base_url) as client:
        desk = await Desk(None, client, AUTHORIZED).member(uuid4().hex, "team")
        yield Sender(client, desk.headers)


async def interrupted(sender: Sender, server: RunningServer, upload_id: str) -> None:
    """Kill the server when it has half of the last part."""
    is_half = asyncio.Event()
    incoming = server.log.parent / "data" / "blobs" / "incoming~"
    before = set(incoming.iterdir())

    async def half() -> AsyncIterator[bytes]:
        yield PARTS[0][: PART_BYTES // 2]
        is_half.set()
        await asyncio.Event().wait()

    path = f"{UPLOADS}/{upload_id}/parts/3"
    length = {"content-length": str(PART_BYTES)}
    sending = asyncio.create_task(sender.ask("PUT", path, content=half(), headers=length))
    await is_half.wait()
    await until(lambda: set(incoming.iterdir()) - before)
    server.kill()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


class TestResume:
    @pytest.mark.parametrize("sent", [0, 1, 3, len(PARTS)])
    async def test_goes_on_after_the_parts_that_were_there(self, server, sender, sent):
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

    async def test_a_part_that_was_cut_off_is_not_there(self, server, sender):
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

    async def test_what_is_committed_survives(self, server, sender):
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
