"""Links to a bucket, by which somebody else puts one blob: against a server that checks signatures,
and against one that knows more of S3 and checks none.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import boto3
import httpx
import pytest

from app.adapters.blobs import open_blobs
from app.adapters.blobs import s3 as adapter
from app.adapters.blobs.local import LocalBlobStore
from app.adapters.blobs.s3 import LINK_S, PART_BYTES, S3BlobStore, S3Options
from app.kernel.errors import Invalid
from app.kernel.ports import BlobInfo, BlobLink, BlobLinks, utc_now
from app.kernel.settings import Secret
from app.settings import HouseSettings
from tests import services
from tests.waiting import until

pytestmark = pytest.mark.needs_s3

BODY = b"sealed bytes of somebody's"
OTHER = b"SEALED bytes of somebody's"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def encoded(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


@pytest.fixture(scope="module")
def strict_options() -> Iterator[S3Options]:
    with services.rclone() as options:
        yield options


@pytest.fixture
async def strict(strict_options: S3Options) -> AsyncIterator[S3BlobStore]:
    """A bucket that refuses what is not signed."""
    store = S3BlobStore(strict_options)
    yield store
    await store.close()


@pytest.fixture
async def lax(s3: S3Options) -> AsyncIterator[S3BlobStore]:
    store = S3BlobStore(s3)
    yield store
    await store.close()


@pytest.fixture(params=["strict", "lax"])
def store(request: pytest.FixtureRequest) -> S3BlobStore:
    return request.getfixturevalue(request.param)


async def linked(store: S3BlobStore, key: str, body: bytes = BODY) -> BlobLink:
    return await store.link(key, size_bytes=len(body), sha256=sha256(body))


async def put(link: BlobLink, body: bytes, url: str = "", **changes: str | None) -> int:
    """Use a link as it was given, but for the changes; the status of the answer."""
    names = {name.replace("_", "-"): value for name, value in changes.items()}
    headers = {k: v for k, v in (dict(link.headers) | names).items() if v is not None}
    async with httpx.AsyncClient() as client:
        return (await client.put(url or link.url, content=body, headers=headers)).status_code


class TestLink:
    async def test_takes_the_bytes_it_was_made_for(self, store):
        link = await linked(store, "links/taken")

        status = await put(link, BODY)

        assert status == 200
        assert await store.info("links/taken") == BlobInfo(len(BODY), sha256(BODY))

    async def test_can_be_used_again_for_the_same(self, store):
        link = await linked(store, "links/again")

        statuses = [await put(link, BODY) for _ in range(2)]

        assert statuses == [200, 200]

    async def test_takes_no_other_size(self, strict):
        link = await linked(strict, "links/size")

        status = await put(link, BODY[:-1], content_length=str(len(BODY) - 1))

        assert status == 403
        assert await strict.info("links/size") is None

    @pytest.mark.parametrize("checksum", [encoded(OTHER), None], ids=["another", "none"])
    async def test_takes_no_other_digest(self, strict, checksum):
        link = await linked(strict, "links/digest")

        status = await put(link, OTHER, x_amz_checksum_sha256=checksum)

        assert status == 403
        assert await strict.info("links/digest") is None

    async def test_is_for_no_other_key(self, strict):
        link = await linked(strict, "links/mine")

        status = await put(link, BODY, link.url.replace("links/mine", "links/yours"))

        assert status == 403
        assert await strict.info("links/yours") is None

    async def test_lets_its_user_say_nothing_else(self, strict):
        link = await linked(strict, "links/more")

        status = await put(link, BODY, x_amz_meta_sha256=sha256(OTHER))

        assert status == 403

    async def test_ends(self, strict, monkeypatch):
        monkeypatch.setattr(adapter, "LINK_S", 1)
        link = await linked(strict, "links/late")

        async def is_refused() -> bool:
            return await put(link, BODY) == 400

        assert await until(is_refused)

    async def test_says_when_it_ends(self, store):
        before = utc_now()

        link = await linked(store, "links/until")

        lasts = timedelta(seconds=LINK_S)
        assert before + lasts <= link.expires_at <= utc_now() + lasts

    async def test_refuses_a_key_that_some_store_cannot_keep(self, store):
        with pytest.raises(Invalid):
            await linked(store, "links/../other")

    def test_only_a_bucket_makes_them(self, lax, tmp_path):
        assert isinstance(lax, BlobLinks)
        assert not isinstance(LocalBlobStore(tmp_path / "blobs"), BlobLinks)


class TestEncryption:
    """``S3_SSE``, as the bucket was asked for it."""

    @pytest.fixture
    async def sealed(self, s3: S3Options) -> AsyncIterator[Any]:
        settings = HouseSettings(
            s3_bucket=s3.bucket,
            s3_endpoint=s3.endpoint,
            s3_access_key=Secret(s3.access_key),
            s3_secret_key=Secret(s3.secret_key),
            s3_sse="AES256",
        )
        store = open_blobs(settings)
        yield store
        await store.close()

    @pytest.mark.parametrize("size", [10, PART_BYTES + 1], ids=["at once", "in parts"])
    async def test_is_asked_for_every_blob(self, sealed, s3, size):
        async def body() -> AsyncIterator[bytes]:
            yield bytes(size)

        await sealed.put("blob", body())

        assert await encryption(s3, "blob") == "AES256"

    async def test_is_bound_to_every_link(self, sealed, s3):
        link = await linked(sealed, "blob")

        await put(link, BODY)

        assert link.headers["x-amz-server-side-encryption"] == "AES256"
        assert "x-amz-server-side-encryption" in link.url
        assert await encryption(s3, "blob") == "AES256"

    async def test_is_not_asked_for_where_nobody_wants_it(self, lax):
        link = await linked(lax, "blob")

        assert set(link.headers) == {"content-length", "x-amz-checksum-sha256"}


async def encryption(options: S3Options, key: str) -> str | None:
    client = boto3.client(
        "s3",
        region_name=options.region,
        endpoint_url=options.endpoint,
        aws_access_key_id=options.access_key,
        aws_secret_access_key=options.secret_key,
    )
    found = await asyncio.to_thread(client.head_object, Bucket=options.bucket, Key=key)
    client.close()
    return found.get("ServerSideEncryption")
