"""Blobs in a bucket of S3, or of anything that speaks its protocol."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.adapters.blobs.intake import BlobMissing, BlobsDown, check, closing, folder_of, receive
from app.kernel.ports import BlobInfo, BlobLink, utc_now

CHUNK_BYTES = 262_144
PART_BYTES = 8_388_608
SPOOL_BYTES = 1_048_576
MAX_PARALLEL = 16
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
ATTEMPTS = 3
LINK_S = 900
# SHA-256 as base64. That of a blob in parts is one of digests, and ends in their number.
WHOLE_DIGEST_CHARS = 44

FAILURES = (ClientError, BotoCoreError, OSError)
MISSING = {"NoSuchKey", "404"}
PAST_THE_END = {"InvalidRange", "416"}


class S3Options(msgspec.Struct, frozen=True):
    """Where the bucket is. Without keys, boto3 looks for credentials by itself.

    ``sse`` is ``AES256`` or ``aws:kms`` where the bucket shall encrypt what it keeps.
    """

    bucket: str
    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""
    sse: str = ""


class S3BlobStore:
    """An upload waits in a temporary file: S3 wants the SHA-256 before the first byte.

    It has threads of its own, so that a bucket that hangs does not hold up everybody else's.
    """

    def __init__(self, options: S3Options) -> None:
        self._bucket = options.bucket
        self._sealed = {"ServerSideEncryption": options.sse} if options.sse else {}
        self._threads = ThreadPoolExecutor(MAX_PARALLEL, "s3")
        self._s3: Any = _client(options)

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> BlobInfo:
        check(key)
        with closing(SpooledTemporaryFile(SPOOL_BYTES)) as file:
            info = await receive(chunks, file)
            await self._call(self._upload, key, file, info)
        return info

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        part = "" if end is None else str(max(start, end - 1))
        whole = start == 0 and end is None
        asked = {} if whole else {"Range": f"bytes={start}-{part}"}
        try:
            found = await self._call(self._s3.get_object, **self._named(key), **asked)
        except _PastTheEnd:
            return
        body = found["Body"]
        try:
            while end is None or start < end:
                if not (chunk := await self._call(body.read, CHUNK_BYTES)):
                    return
                yield chunk
        finally:
            body.close()

    async def info(self, key: str) -> BlobInfo | None:
        named = {**self._named(key), "ChecksumMode": "ENABLED"}
        try:
            found = await self._call(self._s3.head_object, **named)
        except BlobMissing:
            return None
        return BlobInfo(found["ContentLength"], _told(found) or await self._digest(key))

    async def link(self, key: str, *, size_bytes: int, sha256: str) -> BlobLink:
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        bound = {**self._named(key), **self._sealed, "ChecksumSHA256": checksum}
        url = await self._call(
            self._s3.generate_presigned_url,
            "put_object",
            Params={**bound, "ContentLength": size_bytes},
            ExpiresIn=LINK_S,
        )
        headers = {"content-length": str(size_bytes), "x-amz-checksum-sha256": checksum}
        if self._sealed:
            headers["x-amz-server-side-encryption"] = self._sealed["ServerSideEncryption"]
        return BlobLink(url, headers, utc_now() + timedelta(seconds=LINK_S))

    async def delete(self, key: str) -> None:
        await self._call(self._s3.delete_object, **self._named(key))
        await self._call(self._abort_uploads, key)

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        folder_of(prefix)
        asked = {"Bucket": self._bucket, "Prefix": prefix}
        while True:
            page = await self._call(self._s3.list_objects_v2, **asked)
            for found in page.get("Contents", ()):
                yield found["Key"]
            if not page["IsTruncated"]:
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    async def ping(self) -> None:
        try:
            await self._call(self._s3.head_bucket, Bucket=self._bucket)
        except BlobMissing as error:
            raise BlobsDown("There is no such bucket.") from error

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._s3.close()

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": check(key)}

    async def _call(self, work: Callable[..., Any], *args: Any, **named: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, partial(work, *args, **named))
        except FAILURES as error:
            raise _translated(error) from error

    async def _digest(self, key: str) -> str:
        """Read what somebody else has put into the bucket."""
        digest = hashlib.sha256()
        async for chunk in self.get(key):
            digest.update(chunk)
        return digest.hexdigest()

    def _upload(self, key: str, file: IO[bytes], info: BlobInfo) -> None:
        file.seek(0)
        named: dict[str, Any] = {
            **self._named(key),
            **self._sealed,
            "Metadata": {"sha256": info.sha256},
        }
        if info.size_bytes <= PART_BYTES:
            self._s3.put_object(**named, Body=file.read())
            return
        upload = self._s3.create_multipart_upload(**named)["UploadId"]
        try:
            self._upload_parts(key, file, upload)
        except Exception:
            with suppress(*FAILURES):
                self._s3.abort_multipart_upload(**self._named(key), UploadId=upload)
            raise

    def _abort_uploads(self, key: str) -> None:
        """Remove what a process that was killed half way has sent: no list of keys shows it."""
        with suppress(*FAILURES):
            found = self._s3.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
            for begun in found.get("Uploads", ()):
                if begun["Key"] == key:
                    self._s3.abort_multipart_upload(**self._named(key), UploadId=begun["UploadId"])

    def _upload_parts(self, key: str, file: IO[bytes], upload: str) -> None:
        named = {**self._named(key), "UploadId": upload}
        parts: list[dict[str, Any]] = []
        for number, chunk in enumerate(iter(partial(file.read, PART_BYTES), b""), 1):
            sent = self._s3.upload_part(**named, PartNumber=number, Body=chunk)
            parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        self._s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})


def _told(found: Any) -> str:
    """The SHA-256 that the bucket itself has computed, else the one that we put beside the bytes.

    Whoever puts a blob by a link could say what they like beside it.
    """
    checksum = found.get("ChecksumSHA256", "")
    if len(checksum) == WHOLE_DIGEST_CHARS:
        return base64.b64decode(checksum).hex()
    about = {name.lower(): value for name, value in found["Metadata"].items()}
    return str(about.get("sha256", ""))


class _PastTheEnd(Exception):
    """A range that begins where the blob has ended."""


def _translated(error: Exception) -> Exception:
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if code in MISSING:
        return BlobMissing()
    return _PastTheEnd() if code in PAST_THE_END else BlobsDown()


def _client(options: S3Options) -> Any:
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        max_pool_connections=MAX_PARALLEL,
        # Not every server that speaks S3 knows the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        "s3",
        region_name=options.region,
        endpoint_url=options.endpoint or None,
        aws_access_key_id=options.access_key or None,
        aws_secret_access_key=options.secret_key or None,
        config=config,
    )
