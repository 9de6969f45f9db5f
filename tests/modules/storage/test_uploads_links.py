"""Parts that their sender puts into the bucket: only links that are signed are taken there."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from app.adapters.blobs.s3 import S3Options
from tests import services
from tests.modules.storage.desks import Desk, open_desk, problem, sha256
from tests.modules.storage.shipments import (
    BODY,
    UPLOADS,
    Sender,
    Sums,
    cut,
)

pytestmark = [pytest.mark.needs_s3, pytest.mark.asyncio(loop_scope="module")]

PARTS = cut(BODY)
OTHER = PARTS[0][::-1]


@pytest.fixture(scope="module")
def strict() -> Iterator[S3Options]:
    with services.rclone() as options:
        yield options


@pytest.fixture(scope="module")
def lax(s3_endpoint: str) -> S3Options:
    return services.fresh_bucket(s3_endpoint)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["strict", "lax"])
async def desk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Desk]:
    """A house with a bucket that checks signatures, and one with a bucket that does not."""
    options: S3Options = request.getfixturevalue(request.param)
    variables = {
        "S3_BUCKET": options.bucket,
        "S3_ENDPOINT": options.endpoint,
        "S3_ACCESS_KEY": options.access_key,
        "S3_SECRET_KEY": options.secret_key,
    }
    async with open_desk(tmp_path_factory.mktemp("house") / "data", **variables) as found:
        yield found


async def ask_link(sender: Sender, upload_id: str, number: int, data: bytes) -> httpx.Response:
    path = f"{UPLOADS}/{upload_id}/parts/{number}"
    return await sender.ask("POST", path, json={"checksum": sha256(data)})


async def put(link: dict, data: bytes) -> int:
    async with httpx.AsyncClient() as client:
        answer = await client.put(link["url"], content=data, headers=link["headers"])
        return answer.status_code


async def send_by_link(sender: Sender, upload_id: str, number: int, data: bytes) -> int:
    link = await ask_link(sender, upload_id, number, data)
    assert link.status_code == 200, link.text
    return await put(link.json(), data)


class TestLink:
    async def test_binds_size_and_digest(self, yard):
        upload_id = await yard.owner.begun()

        answer = await ask_link(yard.owner, upload_id, 3, PARTS[2])

        told = answer.json()
        assert answer.status_code == 200
        assert told["method"] == "PUT"
        assert told["headers"]["content-length"] == str(len(PARTS[2]))
        assert "content-length%3Bhost%3Bx-amz-checksum-sha256" in told["url"]
        assert told["expires_at"] > 1_700_000_000_000

    async def test_the_whole_body_can_come_by_links(self, yard):
        upload_id = await yard.owner.begun()

        statuses = [
            await send_by_link(yard.owner, upload_id, number, data)
            for number, data in enumerate(PARTS, 1)
        ]
        made = await yard.owner.complete(upload_id, checksum=sha256(BODY))

        assert statuses == [200] * len(PARTS)
        assert made.status_code == 201, made.text
        assert (await yard.owner.latest()).content == BODY
        assert await yard.sums(yard.owner) == Sums(backups=len(BODY))

    async def test_a_part_is_listed_once_it_is_there(self, yard):
        upload_id = await yard.owner.begun()
        link = (await ask_link(yard.owner, upload_id, 1, PARTS[0])).json()

        before = await yard.owner.numbers(upload_id)
        await put(link, PARTS[0])

        assert before == []
        assert (await yard.owner.look(upload_id)).json()["parts"] == [
            {"number": 1, "size_bytes": len(PARTS[0]), "checksum": sha256(PARTS[0])}
        ]

    async def test_a_part_that_never_came_is_missing(self, yard):
        upload_id = await yard.owner.begun()
        await ask_link(yard.owner, upload_id, 1, PARTS[0])

        answer = await yard.owner.complete(upload_id)

        assert problem(answer) == (409, "parts-missing")

    async def test_the_same_part_has_one_link(self, yard):
        upload_id = await yard.owner.begun()

        for _ in range(9):
            answer = await ask_link(yard.owner, upload_id, 1, PARTS[0])

        assert answer.status_code == 200
        assert await yard.part_states() == ["open"]

    async def test_a_part_has_so_many_links_and_no_more(self, yard):
        upload_id = await yard.owner.begun()
        for number in range(4):
            await ask_link(yard.owner, upload_id, 1, bytes([number]))

        answer = await ask_link(yard.owner, upload_id, 1, b"5")

        assert problem(answer) == (409, "links-too-many")

    async def test_what_was_sent_here_since_counts_more(self, yard):
        upload_id = await yard.owner.begun()
        link = (await ask_link(yard.owner, upload_id, 1, OTHER)).json()
        await yard.owner.send_part(upload_id, 1, PARTS[0])

        await put(link, OTHER)

        [part] = (await yard.owner.look(upload_id)).json()["parts"]
        assert part["checksum"] == sha256(PARTS[0])

    async def test_what_comes_by_a_newer_link_replaces(self, yard):
        upload_id = await yard.owner.begun()
        await yard.owner.send_part(upload_id, 1, OTHER)

        await send_by_link(yard.owner, upload_id, 1, PARTS[0])

        [part] = (await yard.owner.look(upload_id)).json()["parts"]
        assert part["checksum"] == sha256(PARTS[0])

    async def test_there_is_no_part_of_another_number(self, yard):
        upload_id = await yard.owner.begun()

        answer = await ask_link(yard.owner, upload_id, 4, PARTS[0])

        assert problem(answer) == (400, "part-malformed")

    async def test_a_digest_that_is_none_is_refused(self, yard):
        upload_id = await yard.owner.begun()
        path = f"{UPLOADS}/{upload_id}/parts/1"

        answer = await yard.owner.ask("POST", path, json={"checksum": "abc"})

        assert problem(answer) == (400, "digest-malformed")

    async def test_a_session_that_has_ended_gives_none(self, yard):
        upload_id = await yard.owner.begun()
        await yard.owner.abort(upload_id)

        answer = await ask_link(yard.owner, upload_id, 1, PARTS[0])

        assert problem(answer) == (410, "upload-gone")


class TestForgery:
    async def test_other_bytes_than_those_announced_are_never_believed(self, yard):
        """Real buckets refuse them. Whichever does not is found out, because all is read."""
        size = len(PARTS[0])
        upload_id = await yard.owner.begun(size_bytes=size, checksum=sha256(PARTS[0]))
        link = (await ask_link(yard.owner, upload_id, 1, PARTS[0])).json()
        await put(link, OTHER)

        answer = await yard.owner.complete(upload_id)

        assert answer.status_code in {400, 409}
        assert (await yard.owner.latest()).status_code == 404
