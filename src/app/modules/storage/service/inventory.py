"""Compares the rows with the blobs and the sums, while the house goes on working.

The sweep needs none of it. This is for the day on which a disk, a bucket or a restored copy is not
what the database takes it for; so it changes nothing unless it is asked to.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final
from uuid import UUID

from app.kernel import log
from app.kernel.db import Database
from app.kernel.ports import BlobStore
from app.modules.storage.domain.bodies import blob_key
from app.modules.storage.domain.inventory import Findings
from app.modules.storage.models import PartRow
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.repository.inventory import (
    NOWHERE,
    InventoryRepository,
    correct,
    counts_of,
)
from app.modules.storage.service.bodies import Bodies

PREFIX: Final = "storage/"
PAGE_ROWS: Final = 500
PARALLEL: Final = 8

_log = log.get("storage")


class Inventory:
    def __init__(self, db: Database, blobs: BlobStore, tell: Callable[[Findings], None]) -> None:
        self._db = db
        self._blobs = blobs
        self._tell = tell

    async def run(self) -> None:
        """Take it, and tell; a periodic job calls it."""
        findings = await self.take()
        self._tell(findings)
        if not findings.is_sound:
            counts = {fault: tally.count for fault, tally in findings.faults.items()}
            _log.warning("storage.not-sound", **counts)

    async def take(self, *, may_repair: bool = False) -> Findings:
        """Look at everything once.

        A repair removes stray blobs, drops unclaimed bodies and corrects sums. What is lost or
        torn it cannot bring back.
        """
        findings = Findings()
        await self._look_at_blobs(findings, may_repair=may_repair)
        await self._look_at_parts(findings)
        await self._look_at_bodies(findings, may_repair=may_repair)
        await self._look_at_accounts(findings, may_repair=may_repair)
        return findings

    async def _look_at_blobs(self, findings: Findings, *, may_repair: bool) -> None:
        """A row is there before its blob, and longer: a blob without one is nobody's."""
        async for keys in _pages(self._blobs.keys(PREFIX)):
            findings.blobs += len(keys)
            ids = {key: _part_of(key) for key in keys}
            async with self._db.read() as session:
                known = await InventoryRepository(session).known([i for i in ids.values() if i])
            for key in (key for key in keys if ids[key] not in known):
                # It may have been removed, and its row after it, since it was listed.
                if await self._blobs.info(key) is not None:
                    findings.stray.add(key)
                    if may_repair:
                        await self._blobs.delete(key)

    async def _look_at_parts(self, findings: Findings) -> None:
        after = NOWHERE
        while True:
            async with self._db.read() as session:
                parts = await InventoryRepository(session).kept_parts(after, PAGE_ROWS)
            if not parts:
                return
            after = parts[-1].id
            findings.parts += len(parts)
            for start in range(0, len(parts), PARALLEL):
                few = parts[start : start + PARALLEL]
                for part, is_lost in zip(few, await self._are_lost(few), strict=True):
                    if is_lost:
                        findings.lost.add(blob_key(part.user_id, part.id))

    async def _are_lost(self, parts: Sequence[PartRow]) -> list[bool]:
        return await asyncio.gather(*(self._is_lost(part) for part in parts))

    async def _is_lost(self, part: PartRow) -> bool:
        info = await self._blobs.info(blob_key(part.user_id, part.id))
        if info is not None and info.size_bytes == part.size_bytes:
            return False
        # It may have been swept away since its row was read.
        async with self._db.read() as session:
            return await InventoryRepository(session).is_kept(part.id)

    async def _look_at_bodies(self, findings: Findings, *, may_repair: bool) -> None:
        after = NOWHERE
        while True:
            async with self._db.read() as session:
                bodies = await InventoryRepository(session).kept_bodies(after, PAGE_ROWS)
            if not bodies:
                return
            after = bodies[-1][0]
            for body_id, is_whole, is_claimed in bodies:
                if not is_whole:
                    findings.torn.add(str(body_id))
                if not is_claimed:
                    findings.unclaimed.add(str(body_id))
                    if may_repair:
                        await self._drop(body_id)

    async def _drop(self, body_id: UUID) -> None:
        async with self._db.begin() as session:
            user_id = await InventoryRepository(session).is_unclaimed(body_id)
            account = user_id and await AccountRepository(session).lock_if_there(user_id)
            if account and await InventoryRepository(session).is_unclaimed(body_id):
                await Bodies.drop(session, account, body_id)

    async def _look_at_accounts(self, findings: Findings, *, may_repair: bool) -> None:
        after = NOWHERE
        while True:
            # One snapshot has both: a sum changes in the transaction that changes its bodies.
            async with self._db.read() as session:
                found = InventoryRepository(session)
                accounts = await found.accounts(after, PAGE_ROWS)
                truth = await found.counted([account.id for account in accounts])
            if not accounts:
                return
            after = accounts[-1].id
            findings.accounts += len(accounts)
            for account in accounts:
                if counts_of(account) != truth[account.id]:
                    findings.miscounted.add(str(account.id))
                    if may_repair:
                        await self._correct(account.id)

    async def _correct(self, user_id: UUID) -> None:
        async with self._db.begin() as session:
            account = await AccountRepository(session).lock_if_there(user_id)
            if account is not None:
                truth = await InventoryRepository(session).counted([user_id])
                correct(account, truth[user_id])


async def _pages(keys: AsyncIterator[str]) -> AsyncIterator[list[str]]:
    page: list[str] = []
    async for key in keys:
        page.append(key)
        if len(page) == PAGE_ROWS:
            yield page
            page = []
    if page:
        yield page


def _part_of(key: str) -> UUID | None:
    try:
        return UUID(hex=key.rpartition("/")[2])
    except ValueError:
        return None
