"""A process that dies at its n-th step, in this one: from then on nothing works, clean-up neither.

What a dead process had open is rolled back, and what it had committed or put stays.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from app.kernel.db import Database
from app.kernel.ports import BlobInfo, BlobStore

NEVER = 1_000_000


class Death(BaseException):
    """No code of ours catches it."""


class Fate:
    """Counts steps, and lets none follow the last."""

    def __init__(self, dies_at: int = NEVER) -> None:
        self.steps = 0
        self._dies_at = dies_at

    def step(self) -> None:
        if self.steps >= self._dies_at:
            raise Death
        self.steps += 1


class MortalDatabase:
    """Dies before a transaction, before its commit and after it."""

    def __init__(self, inner: Database, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate
        self.is_embedded = inner.is_embedded

    @asynccontextmanager
    async def begin(self, *, is_durable: bool = False) -> AsyncIterator[Any]:
        self._fate.step()
        async with self._inner.begin(is_durable=is_durable) as session:
            yield session
            await session.flush()
            self._fate.step()
        self._fate.step()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        self._fate.step()
        async with self._inner.read() as session:
            yield session


class MortalStore:
    """Dies before, in the middle of and after whatever a blob store does."""

    def __init__(self, inner: BlobStore, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> BlobInfo:
        self._fate.step()
        info = await self._inner.put(key, self._each(chunks))
        self._fate.step()
        return info

    async def get(
        self, key: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        async with aclosing(self._inner.get(key, start=start, end=end)) as found:
            async for chunk in self._each(found):
                yield chunk

    async def info(self, key: str) -> BlobInfo | None:
        return await self._inner.info(key)

    async def delete(self, key: str) -> None:
        self._fate.step()
        await self._inner.delete(key)
        self._fate.step()

    def keys(self, prefix: str) -> AsyncIterator[str]:
        return self._inner.keys(prefix)

    async def _each(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._fate.step()
            yield chunk
