"""Blobs in a folder: the embedded default.

A blob is one file, its bytes and then its SHA-256, so that both appear by one rename. Folders
follow the key; the last one is a shard whose name ends in ``~``, which no key contains.
"""

import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from app.adapters.blobs.intake import BlobMissing, check, closing, folder_of, on_disk, receive
from app.kernel.ports import BlobInfo

CHUNK_BYTES = 262_144
DIGEST_BYTES = 32
KEYS_A_BATCH = 1000
STALE_AFTER_S = 3600


class LocalBlobStore:
    """Whoever dies in an upload leaves a file behind, which is swept away once it is old."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming~"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._sweep()

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> BlobInfo:
        path = self._path(key)
        if time.monotonic() - self._swept_at > STALE_AFTER_S:
            await on_disk(self._sweep)
        fresh = self._incoming / secrets.token_hex(16)
        try:
            with closing(await on_disk(fresh.open, "xb")) as file:
                info = await receive(chunks, file)
                await on_disk(_keep, file, bytes.fromhex(info.sha256), path)
        finally:
            fresh.unlink(missing_ok=True)
        return info

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        with await on_disk(_open, self._path(key)) as file:
            size = os.fstat(file.fileno()).st_size - DIGEST_BYTES
            left = (size if end is None else min(end, size)) - start
            file.seek(start)
            while left > 0 and (chunk := await on_disk(file.read, min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    async def info(self, key: str) -> BlobInfo | None:
        try:
            return await on_disk(_inspect, self._path(key))
        except BlobMissing:
            return None

    async def delete(self, key: str) -> None:
        await on_disk(_remove, self._path(key))

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        found = self._walk(self._folder / folder_of(prefix))
        while batch := await on_disk(lambda: list(islice(found, KEYS_A_BATCH))):
            for key in batch:
                if key.startswith(prefix):
                    yield key

    async def ping(self) -> None:
        """Write and remove a file: a full or a read-only disk is as bad as none."""
        await on_disk(_try, self._incoming / secrets.token_hex(16))

    async def close(self) -> None:
        """Nothing stays open between two calls."""

    def _path(self, key: str) -> Path:
        folder, _, name = check(key).rpartition("/")
        shard = hashlib.sha256(key.encode()).hexdigest()[:2]
        return self._folder / folder / f"{shard}~" / name

    def _sweep(self) -> None:
        self._swept_at = time.monotonic()
        for file in self._incoming.iterdir():
            # Its sender may be done with it by now.
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - STALE_AFTER_S:
                    file.unlink()

    def _walk(self, folder: Path) -> Iterator[str]:
        for place, _, names in os.walk(folder):
            *folders, shard = (".", *Path(place).relative_to(self._folder).parts)
            if shard.endswith("~") and shard != self._incoming.name:
                yield from ("/".join((*folders[1:], name)) for name in names)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise BlobMissing from error


def _keep(file: BinaryIO, digest: bytes, path: Path) -> None:
    """Make the blob visible, and have both the file and its name survive a power cut."""
    file.write(digest)
    file.flush()
    os.fsync(file.fileno())
    _make(path.parent)
    Path(file.name).replace(path)
    _to_disk(path.parent)


def _make(folder: Path) -> None:
    """Make a folder and those above it. Its own name is kept by the folder that it lies in."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _to_disk(folder.parent)


def _remove(path: Path) -> None:
    """Without the flush a power cut could bring back a blob of which nobody knows any more."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    _to_disk(path.parent)


def _to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inspect(path: Path) -> BlobInfo:
    with _open(path) as file:
        size = file.seek(-DIGEST_BYTES, os.SEEK_END)
        return BlobInfo(size, file.read().hex())


def _try(path: Path) -> None:
    path.write_bytes(b"?")
    path.unlink()
