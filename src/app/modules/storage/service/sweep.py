"""Removes what nobody needs: bytes, sessions, tombstones.

In two phases: what is to go is doomed first, and is removed when whoever still reads it is done. A
blob goes before its row, so that a crash in between repeats the removal and never forgets it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import AppError
from app.kernel.ports import BlobLinks, BlobStore, Clock
from app.modules.storage.domain.allowances import Purpose
from app.modules.storage.domain.bodies import blob_key
from app.modules.storage.models import AccountRow
from app.modules.storage.repository.accounts import AccountRepository, add
from app.modules.storage.repository.bodies import BodyRepository
from app.modules.storage.repository.sweep import SweepRepository
from app.modules.storage.service.bodies import Bodies

# An open body or part of which nothing was heard for so long has lost its process.
LEASE_S: Final = 3600.0
# Whoever got a link may use it for so long, also when its part is given up.
LINK_LASTS_S: Final = 3600.0
BATCH_ROWS: Final = 200
# With all the revisions of each, so that one transaction stays short.
BATCH_TOMBSTONES: Final = 20
MAX_BATCHES: Final = 1000
PARALLEL: Final = 8
# A store that fails so often in one round is down; the next round tries again.
MAX_FAILURES: Final = 3

_log = log.get("storage")

Step = Callable[[AsyncSession], Awaitable[int]]


class Patience(msgspec.Struct, frozen=True):
    """How long things that are gone are left, in seconds."""

    grace_s: float
    tombstone_s: float


class Sweep:
    """Works in small steps. What one round leaves, or a crash, the next one finds."""

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        clock: Clock,
        patience: Patience,
        expire: Callable[[], Awaitable[None]],
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._patience = patience
        self._expire = expire

    async def run(self) -> None:
        """One round; a periodic job calls it."""
        await self._expire()
        await self._end_stale()
        await self._forget_tombstones()
        lapsed, gone = self._before(LEASE_S), self._before(self._patience.grace_s)
        await self._repeat(lambda s: SweepRepository(s).doom_orphans(BATCH_ROWS))
        await self._repeat(lambda s: SweepRepository(s).doom_parts(lapsed, gone, BATCH_ROWS))
        await self._remove_blobs(gone)
        await self._repeat(lambda s: SweepRepository(s).forget_bodies(gone, BATCH_ROWS))

    async def _end_stale(self) -> None:
        """Give the room of bodies back whose senders died with their process."""
        before = self._before(LEASE_S)
        for _ in range(MAX_BATCHES):
            async with self._db.read() as session:
                stale = await SweepRepository(session).stale(before, BATCH_ROWS)
            if not stale:
                return
            for user_id, body_id in stale:
                await self._drop_open(user_id, body_id)

    async def _drop_open(self, user_id: UUID, body_id: UUID) -> None:
        async with self._db.begin() as session:
            account = await AccountRepository(session).lock_if_there(user_id)
            if account is not None:
                await Bodies.drop_open(session, account, body_id)

    async def _forget_tombstones(self) -> None:
        before = self._before(self._patience.tombstone_s)
        for _ in range(MAX_BATCHES):
            async with self._db.read() as session:
                users = await SweepRepository(session).users_with_tombstones(before, BATCH_ROWS)
            if not users:
                return
            for user_id in users:
                await self._forget_tombstones_of(user_id, before)

    async def _forget_tombstones_of(self, user_id: UUID, before: datetime) -> None:
        """Whoever knows less than the highest of them has to read everything anew."""
        async with self._db.begin() as session:
            account = await AccountRepository(session).lock_if_there(user_id)
            if account is None:
                return
            old = SweepRepository(session)
            records = await old.forget_records(user_id, before, BATCH_TOMBSTONES)
            vectors = await old.forget_vectors(user_id, before, BATCH_ROWS)
            account.floor_seq = max(account.floor_seq, records.seq, vectors.seq)
            await _drop_all(session, account, list(records.body_ids))

    async def _remove_blobs(self, before: datetime) -> None:
        has_links = isinstance(self._blobs, BlobLinks)
        born_before = self._before(LINK_LASTS_S) if has_links else self._clock()
        failures = 0
        for _ in range(MAX_BATCHES):
            async with self._db.read() as session:
                parts = await SweepRepository(session).doomed_parts(before, born_before, PARALLEL)
            if not parts:
                return
            failures += await self._remove(parts)
            if failures >= MAX_FAILURES:
                _log.warning("storage.sweep-stopped", failures=failures)
                return

    async def _remove(self, parts: Sequence[tuple[UUID, UUID]]) -> int:
        """Remove blobs, then their rows; how many the store refused. Those come later again."""
        removed = await asyncio.gather(*(self._delete(*part) for part in parts))
        ids = {
            done: [id_ for (_, id_), one in zip(parts, removed, strict=True) if one is done]
            for done in (True, False)
        }
        async with self._db.begin() as session:
            await SweepRepository(session).forget_parts(ids[True])
            await SweepRepository(session).postpone(ids[False], self._clock())
        return len(ids[False])

    async def _delete(self, user_id: UUID, part_id: UUID) -> bool:
        key = blob_key(user_id, part_id)
        try:
            await self._blobs.delete(key)
        except AppError as error:
            _log.warning("storage.blob-not-removed", blob=key, reason=str(error))
            return False
        return True

    async def _repeat(self, step: Step) -> None:
        for _ in range(MAX_BATCHES):
            async with self._db.begin() as session:
                if await step(session) == 0:
                    return

    def _before(self, seconds: float) -> datetime:
        return self._clock() - timedelta(seconds=seconds)


async def _drop_all(session: AsyncSession, account: AccountRow, body_ids: list[UUID]) -> None:
    for purpose, size_bytes in await BodyRepository(session).drop_kept(body_ids):
        kind: Purpose = "record" if purpose == "record" else "backup"
        add(account, kind, used_bytes=-size_bytes)
