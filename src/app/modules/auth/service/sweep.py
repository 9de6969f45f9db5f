"""Old rows go: tokens that expired, sessions that ended, events past their retention."""

from datetime import datetime, timedelta

from app.kernel.db import Database
from app.kernel.ports import Clock
from app.modules.auth.repository import (
    EventRepository,
    RefreshTokenRepository,
    SessionRepository,
)

KEEP_ENDED_SESSIONS = timedelta(days=30)
KEEP_EVENTS = timedelta(days=400)
BATCH_ROWS = 1000
MAX_BATCHES = 1000


class Sweep:
    """Deletes in small transactions. What is left of one run, the next one finds."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def run(self) -> None:
        now = self._clock()
        for _ in range(MAX_BATCHES):
            if await self._once(now) == 0:
                return

    async def _once(self, now: datetime) -> int:
        async with self._db.begin() as session:
            return (
                await RefreshTokenRepository(session).sweep(now, BATCH_ROWS)
                + await SessionRepository(session).sweep(now - KEEP_ENDED_SESSIONS, BATCH_ROWS)
                + await EventRepository(session).sweep(now - KEEP_EVENTS, BATCH_ROWS)
            )
