"""Both clients, called in one way."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ai_spine import AISpine, AsyncAISpine

KINDS = ("sync", "async")
KEY = "isk_a-key-that-nobody-may-see-0123456789"


class Caller:
    """A client of either kind. ``pauses`` are what it waited, which took no time."""

    def __init__(self, kind: str, base_url: str, api_key: str | None = KEY, **options: Any) -> None:
        self.pauses: list[float] = []
        self.client: Any
        if kind == "sync":
            options.setdefault("sleep", self.pauses.append)
            self.client = AISpine(api_key, base_url, **options)
        else:
            options.setdefault("sleep", self._pause)
            self.client = AsyncAISpine(api_key, base_url, **options)
        self.is_sync = kind == "sync"

    @staticmethod
    def real(kind: str) -> Any:
        """What a client pauses with when nobody looks."""
        return time.sleep if kind == "sync" else asyncio.sleep

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method, a blocking one in a thread."""
        method = getattr(self.client, name)
        if self.is_sync:
            return await asyncio.to_thread(method, *args, **options)
        return await method(*args, **options)

    async def all(self, name: str, *args: Any, **options: Any) -> list[Any]:
        """Everything that an iterator of the client gives."""
        method = getattr(self.client, name)
        if self.is_sync:
            return await asyncio.to_thread(lambda: list(method(*args, **options)))
        return [item async for item in method(*args, **options)]

    async def close(self) -> None:
        if self.is_sync:
            self.client.close()
        else:
            await self.client.close()


@asynccontextmanager
async def caller(kind: str, base_url: str, **options: Any) -> AsyncIterator[Caller]:
    """A client that is closed after the block."""
    opened = Caller(kind, base_url, **options)
    try:
        yield opened
    finally:
        await opened.close()
