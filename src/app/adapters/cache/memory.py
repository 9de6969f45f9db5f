"""A cache in this process: the embedded default."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator

from app.kernel.errors import Unavailable

MAX_ENTRIES = 100_000
MAX_BYTES = 67_108_864
MAX_BACKLOG = 10_000


class NewsLost(Unavailable):
    """A listener was too slow to hear everything."""

    title = "News lost"


class MemoryCache:
    """Least recently used entries go first, by their number and by the bytes of their values.

    News reaches this process only, which is all.
    """

    def __init__(self) -> None:
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._listeners: dict[str, set[asyncio.Queue[str]]] = {}

    async def get(self, key: str) -> bytes | None:
        found = self._entries.get(key)
        if found is None or found[0] <= time.monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return found[1]

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        self._drop(key)
        self._entries[key] = (time.monotonic() + ttl_s, value)
        self._bytes += len(value)
        while len(self._entries) > MAX_ENTRIES or self._bytes > MAX_BYTES:
            self._drop(next(iter(self._entries)))

    async def delete(self, key: str) -> None:
        self._drop(key)

    async def publish(self, topic: str, message: str) -> None:
        """Tell the listeners. One whose queue is full misses this, and learns it in its turn."""
        listeners = self._listeners.get(topic, set())
        for queue in [queue for queue in listeners if queue.full()]:
            listeners.discard(queue)
        for queue in listeners:
            queue.put_nowait(message)

    async def listen(self, topic: str) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(MAX_BACKLOG)
        listeners = self._listeners.setdefault(topic, set())
        listeners.add(queue)
        try:
            yield ""
            while queue in listeners or not queue.empty():
                yield await queue.get()
        finally:
            listeners.discard(queue)
            if not listeners and self._listeners.get(topic) is listeners:
                del self._listeners[topic]
        raise NewsLost

    def _drop(self, key: str) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self._bytes -= len(found[1])

    async def ping(self) -> None:
        """A cache in the process always answers."""

    async def close(self) -> None:
        self._entries.clear()
        self._bytes = 0
