"""An upload that outlives its server: killed between parts and in the middle of one."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import NamedTuple
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
SENT = (0, 1, 3, len(PARTS))


class Left(NamedTuple):
    """An upload that the server was killed under, and who sends it."""

    sender: Sender
    upload_id: str


class Ruins(NamedTuple):
    """What one kill has left: uploads by their parts, one that was committed, one cut in a part."""

    waiting: dict[int, Left]
    committed: Left
    answer: httpx.Response
    cut: Left


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ruins(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ruins]:
    """All uploads at once under one server. It was killed, and is there again."""
    data = tmp_path_factory.mktemp("server") / "data"
    async with (
        running_server(data) as server,
        httpx.AsyncClient(base_url=server.base_url) as client,
    ):
        waiting = {sent: await begun(client, sent) for sent in SENT}
        committed = await begun(client, len(PARTS))
        answer = await committed.sender.complete(committed.upload_id)
        cut_off = await begun(client, 2)
        await interrupted(cut_off, server)
        await server.start()
        yield Ruins(waiting, committed, answer, cut_off)


async def begun(client: httpx.AsyncClient, sent: int) -> Left:
    """An upload with its first parts, of somebody who has nothing there yet."""
    desk = await Desk(None, client, AUTHORIZED).member(uuid4().hex, "team")
    sender = Sender(client, desk.headers)
    upload_id = await sender.begun(size_bytes=len(BODY), part_bytes=PART_BYTES)
    for number, data in enumerate(PARTS[:sent], 1):
        await sender.send_part(upload_id, number, data)
    return Left(sender, upload_id)


async def interrupted(left: Left, server: RunningServer) -> None:
    """Kill the server when it has half of the next part."""
    is_half = asyncio.Event()
    incoming = server.log.parent / "data" / "blobs" / "incoming~"
    before = set(incoming.iterdir())

    async def half() -> AsyncIterator[bytes]:
        yield PARTS[0][: PART_BYTES // 2]
        is_half.set()
        await asyncio.Event().wait()

    path = f"{UPLOADS}/{left.upload_id}/parts/3"
    length = {"content-length": str(PART_BYTES)}
    sending = asyncio.create_task(left.sender.ask("PUT", path, content=half(), headers=length))
    await is_half.wait()
    await until(lambda: set(incoming.iterdir()) - before)
    server.kill()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


class TestResume:
    @pytest.mark.parametrize("sent", SENT)
    async def test_goes_on_after_the_parts_that_were_there(self, ruins, sent):
        sender, upload_id = ruins.waiting[sent]

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

    async def test_a_part_that_was_cut_off_is_not_there(self, ruins):
        sender, upload_id = ruins.cut

        numbers = await sender.numbers(upload_id)
        for number, data in enumerate(PARTS[2:], 3):
            await sender.send_part(upload_id, number, data)
        completed = await sender.complete(upload_id, checksum=sha256(BODY))

        assert numbers == [1, 2]
        assert completed.status_code == 201

    async def test_what_is_committed_survives(self, ruins):
        sender, upload_id = ruins.committed

        again = await sender.complete(upload_id)
        latest = await sender.latest()

        assert (ruins.answer.status_code, again.status_code) == (201, 200)
        assert again.json() == ruins.answer.json()
        assert latest.content == BODY
