"""Blob stores: one suite for the folder, for a bucket, and for one that checks signatures."""

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import boto3
import msgspec
import pytest

from app.adapters.blobs.intake import BlobsFull
from app.adapters.blobs.local import KEYS_A_BATCH, LocalBlobStore
from app.adapters.blobs.s3 import PART_BYTES, S3BlobStore, S3Options
from app.kernel.errors import Invalid, NotFound, Unavailable
from app.kernel.ports import BlobInfo
from tests import services
from tests.fakes.failing_bucket import failing_bucket

TEXT = b"0123456789"
LARGE = os.urandom(1_000_003) * 17
BAD_KEYS = ["", "/", "a/", "/a", "a//b", "..", "a/../b", "./a", ".a", "a.", "A", "é", "a b", "a\0"]
BAD_KEYS += [
    "x" * 251,
    "a\n",
    "-\r\n/b",
    "a\\b",
    "~",
    "a~/b",
    "%2e%2e/b",
    "..%2fb",
    "a?b",
    "a#b",
    "*",
]
BAD_KEYS += ["incoming~/a", "a/../../../etc/passwd", "\u202ea", "a/.", "a/..", "\x00"]
PARTS = {
    (0, None): TEXT,
    (0, 1): b"0",
    (0, 4): b"0123",
    (0, 99): TEXT,
    (0, 0): b"",
    (3, None): b"3456789",
    (3, 6): b"345",
    (4, 4): b"",
    (6, 3): b"",
    (9, None): b"9",
    (9, 99): b"9",
    (10, None): b"",
    (11, 20): b"",
}
LISTS = {
    "": ["a", "a/one", "a/other/two", "ab/three"],
    "a": ["a", "a/one", "a/other/two", "ab/three"],
    "a/": ["a/one", "a/other/two"],
    "a/o": ["a/one", "a/other/two"],
    "a/on": ["a/one"],
    "a/other/": ["a/other/two"],
    "ab": ["ab/three"],
    "b": [],
    "b/c": [],
}

Store = LocalBlobStore | S3BlobStore


@pytest.fixture(scope="module")
def strict_server() -> Iterator[S3Options]:
    with services.rclone() as options:
        yield options


@pytest.fixture
def strict(strict_server: S3Options) -> S3Options:
    """A fresh bucket of a server that refuses what is not signed."""
    options = msgspec.structs.replace(strict_server, bucket=f"bucket-{uuid4()}")
    plain_client(options).create_bucket(Bucket=options.bucket)
    return options


@pytest.fixture(
    params=["local", "bucket", pytest.param("strict", marks=pytest.mark.needs_s3)],
)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens the same store each time, as another process would."""
    if request.param == "local":
        return lambda: LocalBlobStore(tmp_path / "blobs")
    options = request.getfixturevalue("s3" if request.param == "bucket" else "strict")
    return lambda: S3BlobStore(options)


@pytest.fixture
async def store(reopen: Callable[[], Store]) -> AsyncIterator[Store]:
    store = reopen()
    yield store
    await store.close()


@pytest.fixture(params=["local", "bucket"])
def flat(request: pytest.FixtureRequest) -> Store:
    """A store in which a blob may have the name of a folder; the strict server's are files."""
    return request.getfixturevalue(request.param)


@pytest.fixture
async def local(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


@pytest.fixture
async def bucket(s3: S3Options) -> AsyncIterator[S3BlobStore]:
    store = S3BlobStore(s3)
    yield store
    await store.close()


def plain_client(options: S3Options) -> Any:
    return boto3.client(
        "s3",
        region_name=options.region,
        endpoint_url=options.endpoint,
        aws_access_key_id=options.access_key,
        aws_secret_access_key=options.secret_key,
    )


async def sent(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def broken_off(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    raise ConnectionResetError("the sender is gone")


async def read(store: Store, key: str, **part: int) -> bytes:
    return b"".join([chunk async for chunk in store.get(key, **part)])


async def listed(store: Store, prefix: str = "") -> list[str]:
    return sorted([key async for key in store.keys(prefix)])


class TestPut:
    async def test_tells_size_and_digest(self, store):
        told = await store.put("owner/blob", sent(b"01234", b"", b"56789"))

        assert told == BlobInfo(10, hashlib.sha256(TEXT).hexdigest())

    async def test_keeps_every_byte_of_a_large_blob(self, store):
        pieces = [LARGE[start : start + 70_001] for start in range(0, len(LARGE), 70_001)]

        told = await store.put("large", sent(*pieces))

        assert told == BlobInfo(len(LARGE), hashlib.sha256(LARGE).hexdigest())
        assert await store.info("large") == told
        assert await read(store, "large") == LARGE

    async def test_keeps_every_byte_around_the_size_of_a_part(self, bucket):
        for size in (PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES):
            await bucket.put("blob", sent(LARGE[:size]))

            assert await read(bucket, "blob") == LARGE[:size]

    async def test_keeps_an_empty_blob(self, store):
        told = await store.put("empty", sent())

        assert told == BlobInfo(0, hashlib.sha256().hexdigest())
        assert await store.info("empty") == told
        assert await read(store, "empty") == b""

    async def test_replaces_what_was_there(self, store):
        await store.put("blob", sent(b"old and longer"))

        await store.put("blob", sent(b"new"))

        assert await read(store, "blob") == b"new"

    async def test_lets_a_key_continue_another(self, flat):
        await flat.put("a", sent(b"one"))
        await flat.put("a/b", sent(b"two"))
        await flat.put("a/b/c", sent(b"three"))

        read_back = [await read(flat, key) for key in ("a", "a/b", "a/b/c")]

        assert read_back == [b"one", b"two", b"three"]

    async def test_shows_nothing_before_the_end(self, store):
        seen = []

        async def watched() -> AsyncIterator[bytes]:
            yield LARGE
            seen.append((await store.info("blob"), await listed(store)))
            yield b"end"

        await store.put("blob", watched())

        assert seen == [(None, [])]

    async def test_changes_nothing_when_the_sender_breaks_off(self, store):
        await store.put("blob", sent(b"old"))

        with pytest.raises(ConnectionResetError):
            await store.put("blob", broken_off(LARGE))

        assert await read(store, "blob") == b"old"
        assert await listed(store) == ["blob"]

    async def test_changes_nothing_when_it_is_cancelled(self, store):
        half = asyncio.Event()

        async def stalled() -> AsyncIterator[bytes]:
            yield LARGE
            half.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(store.put("blob", stalled()))
        await half.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert await listed(store) == []

    async def test_takes_many_at_once(self, store):
        bodies = {f"many/{number}": LARGE[number : 300_000 + number] for number in range(20)}

        await asyncio.gather(*(store.put(key, sent(body)) for key, body in bodies.items()))

        assert {key: await read(store, key) for key in bodies} == bodies

    async def test_refuses_a_key_that_some_store_cannot_keep(self, store):
        for key in BAD_KEYS:
            with pytest.raises(Invalid):
                await store.put(key, sent(TEXT))

        assert await listed(store) == []

    async def test_takes_the_longest_key(self, store):
        await store.put("x" * 250, sent(TEXT))

        assert await listed(store) == ["x" * 250]

    async def test_leaves_no_file_behind_in_the_folder(self, local, tmp_path):
        with pytest.raises(ConnectionResetError):
            await local.put("blob", broken_off(LARGE))

        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    async def test_aborts_the_upload_of_a_bucket_that_fails_half_way(self):
        with failing_bucket() as requests:
            store = S3BlobStore(requests.options)

            with pytest.raises(Unavailable):
                await store.put("blob", sent(LARGE))

            await store.close()
        assert requests.seen == [
            ("POST", "/bucket/blob?uploads"),
            ("PUT", "/bucket/blob?uploadId=the-upload&partNumber=1"),
            ("PUT", "/bucket/blob?uploadId=the-upload&partNumber=2"),
            ("DELETE", "/bucket/blob?uploadId=the-upload"),
        ]

    @pytest.mark.parametrize(("size", "space"), [(len(LARGE), 5), (1_400_000, 1_399_950)])
    async def test_says_when_the_disk_takes_nothing_more(self, store, tmp_path, size, space):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (space, before[1]))
        try:
            with pytest.raises(BlobsFull):
                await store.put("blob", sent(LARGE[:size]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        await store.put("blob", sent(LARGE[:size]))
        assert await read(store, "blob") == LARGE[:size]

    async def test_does_not_come_after_whoever_sent_it_has_left(self, local):
        for turns in range(0, 60, 2):
            task = asyncio.create_task(local.put("blob", sent(TEXT)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await local.delete("blob")

        assert await listed(local) == []

    async def test_of_a_signature_that_is_wrong_is_refused(self, strict):
        store = S3BlobStore(msgspec.structs.replace(strict, secret_key="another"))

        with pytest.raises(Unavailable):
            await store.put("blob", sent(TEXT))
        await store.close()


class TestGet:
    async def test_says_when_there_is_none(self, store):
        with pytest.raises(NotFound):
            await read(store, "unknown")

    async def test_reads_a_part(self, store):
        await store.put("blob", sent(TEXT))

        parts = {span: await read(store, "blob", start=span[0], end=span[1]) for span in PARTS}

        assert parts == PARTS

    async def test_reads_a_part_of_nothing(self, store):
        await store.put("empty", sent())

        assert await read(store, "empty", start=0, end=5) == b""

    async def test_says_that_there_is_none_for_an_empty_part_too(self, store):
        with pytest.raises(NotFound):
            await read(store, "unknown", start=4, end=4)

    async def test_reads_a_large_part_in_chunks(self, store):
        await store.put("large", sent(LARGE))

        chunks = [chunk async for chunk in store.get("large", start=5, end=len(LARGE) - 5)]

        assert b"".join(chunks) == LARGE[5:-5]
        assert max(map(len, chunks)) < 1_000_000

    async def test_can_be_left_half_way(self, store):
        await store.put("large", sent(LARGE))

        async with aclosing(store.get("large")) as chunks:
            first = await anext(chunks)

        assert LARGE.startswith(first)

    async def test_finishes_what_it_began_while_the_blob_is_replaced(self, local):
        await local.put("blob", sent(LARGE))

        async with aclosing(local.get("blob")) as chunks:
            first = await anext(chunks)
            await local.put("blob", sent(b"new"))
            rest = [chunk async for chunk in chunks]

        assert first + b"".join(rest) == LARGE

    async def test_refuses_a_key_that_some_store_cannot_keep(self, store):
        for key in BAD_KEYS:
            with pytest.raises(Invalid):
                await read(store, key)


class TestInfo:
    async def test_knows_nothing_of_what_is_not_there(self, store):
        assert await store.info("owner/unknown") is None

    async def test_survives_a_restart(self, store, reopen):
        told = await store.put("owner/blob", sent(TEXT))
        again = reopen()

        assert await again.info("owner/blob") == told
        await again.close()

    async def test_reads_what_somebody_else_put_into_the_bucket(self, bucket, s3):
        put_plainly(s3, "theirs", TEXT)

        assert await bucket.info("theirs") == BlobInfo(10, hashlib.sha256(TEXT).hexdigest())


class TestDelete:
    async def test_removes_a_blob(self, store):
        await store.put("owner/blob", sent(TEXT))

        await store.delete("owner/blob")

        assert await store.info("owner/blob") is None
        assert await listed(store) == []

    async def test_does_not_mind_what_is_not_there(self, store):
        await store.delete("owner/unknown")
        await store.delete("owner/unknown")

    async def test_leaves_the_neighbours(self, flat):
        await flat.put("a", sent(TEXT))
        await flat.put("a/b", sent(TEXT))

        await flat.delete("a")

        assert await listed(flat) == ["a/b"]

    async def test_refuses_a_key_that_some_store_cannot_keep(self, store):
        for key in BAD_KEYS:
            with pytest.raises(Invalid):
                await store.delete(key)


class TestKeys:
    async def test_lists_what_begins_with_the_prefix(self, flat):
        for key in LISTS[""]:
            await flat.put(key, sent(TEXT))

        lists = {prefix: await listed(flat, prefix) for prefix in LISTS}

        assert lists == LISTS

    async def test_lists_more_than_a_batch_of_the_folder(self, local):
        wanted = sorted(f"many/{number}" for number in range(KEYS_A_BATCH + 1))

        await asyncio.gather(*(local.put(key, sent()) for key in wanted))

        assert await listed(local, "many/") == wanted

    async def test_lists_more_than_a_page_of_the_bucket(self, bucket, monkeypatch):
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
        wanted = sorted(f"many/{number}" for number in range(21))

        await asyncio.gather(*(bucket.put(key, sent()) for key in wanted))

        assert await listed(bucket, "many/") == wanted

    async def test_refuses_a_prefix_that_leaves_the_folder(self, store):
        for prefix in ("../", "/etc/", "a/../b", "A/"):
            with pytest.raises(Invalid):
                await listed(store, prefix)


class TestPing:
    async def test_answers(self, store):
        await store.ping()

    async def test_says_when_the_folder_is_gone(self, local, tmp_path):
        (tmp_path / "blobs" / "incoming~").rmdir()

        with pytest.raises(Unavailable):
            await local.ping()

    async def test_says_when_there_is_no_such_bucket(self, s3_endpoint):
        store = S3BlobStore(S3Options("nobodys", s3_endpoint, access_key="a", secret_key="b"))

        with pytest.raises(Unavailable):
            await store.ping()
        await store.close()

    async def test_says_when_the_server_is_gone(self):
        with failing_bucket() as requests:
            options = requests.options
        store = S3BlobStore(options)

        with pytest.raises(Unavailable):
            await store.ping()
        await store.close()


def put_plainly(options: S3Options, key: str, body: bytes) -> None:
    address = f"{options.endpoint}/{options.bucket}/{key}"
    headers = {"Content-Type": "application/octet-stream"}
    urlopen(Request(address, body, headers, method="PUT")).close()
