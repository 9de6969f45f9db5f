"""The SHA-256 of bodies in parts, each of which is read once."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from app.kernel.ports import SingleFlight
from app.modules.storage.domain.bodies import Part
from app.modules.storage.service.bodies import Bodies

READS_AT_ONCE: Final = 4
REMEMBERED: Final = 256


class Digests:
    """Remembers what it has read: whoever completes an upload again need not wait again.

    ``reads_all``: parts may have come past us. Then what is said of a single one is no proof:
    there are buckets that repeat the digest they were told.
    """

    def __init__(self, bodies: Bodies, *, reads_all: bool) -> None:
        self._bodies = bodies
        self._reads_all = reads_all
        self._gate = asyncio.Semaphore(READS_AT_ONCE)
        self._flights: SingleFlight[str] = SingleFlight()
        self._known: dict[bytes, str] = {}

    async def of(self, body_id: UUID, parts: Sequence[Part]) -> str:
        """The digest of these parts together, as 64 hex digits."""
        if len(parts) == 1 and not self._reads_all:
            return parts[0].sha256
        mark = hashlib.sha256(b"".join(part.id.bytes for part in parts)).digest()
        if (known := self._known.get(mark)) is not None:
            return known
        return await self._flights.join(mark, lambda: self._read(body_id, mark))

    async def _read(self, body_id: UUID, mark: bytes) -> str:
        async with self._gate:
            sha256 = await self._bodies.digest(body_id)
        self._known[mark] = sha256
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return sha256
