"""The meter: a journal on disk first, rows in batches after."""

import asyncio
from contextlib import suppress
from uuid import UUID

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.modules.billing.domain import Usage
from app.modules.billing.models import UsageRow
from app.modules.billing.ports import Journal
from app.modules.billing.repository import UsageRepository

FLUSH_EVERY_S = 1.0
BATCH_ROWS = 1000

_log = log.get("billing")


class UsageMeter:
    """Implements ``api.Meter``. A row costs its call one line in a file; SQL comes in batches."""

    def __init__(self, db: Database, journal: Journal) -> None:
        self._db = db
        self._journal = journal
        self._flushing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def record(self, usage: Usage) -> None:
        self._journal.append(usage)

    async def open(self) -> None:
        """Store what an earlier process left in its journal, then keep storing."""
        await self.flush()
        self._task = asyncio.create_task(self._loop(), name="usage-meter")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            with suppress(Unavailable):
                await self.flush()

    async def flush(self) -> None:
        """Store every recorded row. A crash at any point stores some rows again, to no effect."""
        async with self._flushing:
            self._journal.close_segment()
            for segment in self._journal.closed_segments():
                usages = self._journal.read(segment)
                for start in range(0, len(usages), BATCH_ROWS):
                    async with self._db.begin() as session:
                        await UsageRepository(session).store(usages[start : start + BATCH_ROWS])
                self._journal.drop(segment)

    async def list(self, user_id: UUID, before: UUID | None, limit: int) -> list[UsageRow]:
        """Newest first; what this process has just recorded is in it."""
        await self.flush()
        async with self._db.read() as session:
            return await UsageRepository(session).of_user(user_id, before, limit)

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self.flush()
            except Unavailable:
                _log.warning("billing.usage-waits-for-database")
            except Exception as error:  # noqa: BLE001 - rows stay in the journal, the loop goes on
                _log.exception("billing.flush-failed", error)
