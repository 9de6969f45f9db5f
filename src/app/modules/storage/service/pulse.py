"""Says of bytes that come in, for as long as they do, that somebody is behind them."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.ports import Clock
from app.modules.storage.repository.bodies import BodyRepository

# Far more often than the sweep's patience ends.
BEAT_S: Final = 300.0


class Pulse:
    """Around the receiving of one part; it goes on while the store works after the last byte."""

    def __init__(self, db: Database, clock: Clock, body_id: UUID, part_id: UUID) -> None:
        self.is_gone = False
        self._db = db
        self._clock = clock
        self._body_id = body_id
        self._part_id = part_id

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._beating.cancel()
        await asyncio.wait([self._beating])

    async def _beat(self) -> None:
        while not self.is_gone:
            await asyncio.sleep(BEAT_S)
            # A database that is away for a while is no reason to turn the sender away.
            with suppress(Unavailable):
                self.is_gone = not await self._touch()

    async def _touch(self) -> bool:
        now = self._clock()
        async with self._db.begin() as session:
            repository = BodyRepository(session)
            is_open = await repository.touch_part(self._part_id, now)
            return await repository.touch(self._body_id, now) and is_open
