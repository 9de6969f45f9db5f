"""A database that remembers of each transaction whether its end survives a power cut."""

from contextlib import asynccontextmanager
from typing import Any

from app.kernel.db import Database


class Watched:
    """``commits`` has ``True`` for each that was waited for until it was on the disk."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.commits: list[bool] = []

    @property
    def is_embedded(self) -> bool:
        return self._inner.is_embedded

    @asynccontextmanager
    async def begin(self, *, is_durable: bool = False) -> Any:
        async with self._inner.begin(is_durable=is_durable) as session:
            yield session
        self.commits.append(is_durable)

    def read(self) -> Any:
        return self._inner.read()
