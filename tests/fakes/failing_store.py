"""A blob store that fails when, and how, a test says."""

import errno
from collections.abc import AsyncIterator
from contextlib import aclosing

from app.adapters.blobs.intake import BlobsDown
from app.kernel.ports import BlobInfo, BlobStore

FULL = OSError(errno.ENOSPC, "No space left on device")


class FailingStore:
    """Around another store. ``refused`` are the keys that it will not remove."""

    def __init__(self, inner: BlobStore) -> None:
        self.inner = inner
        self.error: Exception | None = None
        self.refused: set[str] = set()
        self.deleted: list[str] = []

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> BlobInfo:
        return await self.inner.put(key, self._until_it_fails(chunks))

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        async with aclosing(self.inner.get(key, start=start, end=end)) as found:
            async for chunk in self._until_it_fails(found):
                yield chunk

    async def info(self, key: str) -> BlobInfo | None:
        return await self.inner.info(key)

    async def delete(self, key: str) -> None:
        if self.error is not None:
            raise self.error
        if key in self.refused:
            raise BlobsDown("Not this one, says the test.")
        self.deleted.append(key)
        await self.inner.delete(key)

    def keys(self, prefix: str) -> AsyncIterator[str]:
        return self.inner.keys(prefix)

    async def _until_it_fails(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """All but the first chunk, when it is to fail."""
        async for chunk in chunks:
            yield chunk
            if self.error is not None:
                raise self.error
