"""What every module may need from outside, and one question of all who ask the same at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec

T = TypeVar("T")

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Read the wall clock, aware and in UTC."""
    return datetime.now(UTC)


class Cache(Protocol):
    """Short-lived values and news between processes. Losing all of it is never an error."""

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None: ...

    async def delete(self, key: str) -> None: ...

    async def publish(self, topic: str, message: str) -> None:
        """Tell every process, this one included, that listens to ``topic``."""
        ...

    def listen(self, topic: str) -> AsyncIterator[str]:
        """Yield messages until closed, an empty one first: "from here on nothing is missed".

        ``Unavailable`` when news may have been lost.
        """
        ...


class BlobInfo(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 (hex) of a stored blob."""

    size_bytes: int
    sha256: str


class BlobStore(Protocol):
    """Named bytes. Keys are slash-separated; a blob is visible whole or not at all."""

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> BlobInfo: ...

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream bytes ``start`` up to, not including, ``end``; ``NotFound`` if there is none."""
        ...

    async def info(self, key: str) -> BlobInfo | None: ...

    async def delete(self, key: str) -> None:
        """Remove a blob; removing what is not there is fine."""
        ...

    def keys(self, prefix: str) -> AsyncIterator[str]: ...


class BlobLink(msgspec.Struct, frozen=True):
    """Where somebody may send one blob themselves, by PUT, and with which headers."""

    url: str
    headers: Mapping[str, str]
    expires_at: datetime


@runtime_checkable
class BlobLinks(Protocol):
    """A blob store that takes bytes from others than us, and checks them itself."""

    async def link(self, key: str, *, size_bytes: int, sha256: str) -> BlobLink:
        """Allow exactly these bytes (``sha256`` in hex) to be put under ``key``, for a while."""
        ...


class SingleFlight(Generic[T]):
    """Asks once for each key, however many wait for the answer.

    A memory whose entry has grown old is missed by every caller at once. Who leaves does not end
    the question for the others; a failure is everybody's.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[T]] = {}

    async def join(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the answer that is on its way for this key, else ask."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(ask())
            flight.add_done_callback(lambda ended: self._land(key, ended))
        return await asyncio.shield(flight)

    def _land(self, key: Hashable, ended: "asyncio.Task[T]") -> None:
        del self._flights[key]
        if not ended.cancelled():
            # Whoever waited has it raised; if all have left, it is nobody's.
            ended.exception()
