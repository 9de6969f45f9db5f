"""Backups, of which the one with the highest version counts."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database, uuid7
from app.kernel.ports import Clock
from app.modules.auth.api import Principal
from app.modules.storage.domain.allowances import Allowance, quota_of, require_tier
from app.modules.storage.domain.backups import (
    Backup,
    BackupWrite,
    NoSuchBackup,
    is_repeated,
    require_later,
)
from app.modules.storage.domain.bodies import Draft
from app.modules.storage.domain.digests import Expected
from app.modules.storage.models import AccountRow, BackupRow
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.repository.backups import BackupRepository
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.bodies import Bodies, Intake


class Backups:
    def __init__(self, db: Database, bodies: Bodies, allowances: Allowances, clock: Clock) -> None:
        self._db = db
        self._bodies = bodies
        self._allowances = allowances
        self._clock = clock

    async def put(
        self,
        principal: Principal,
        write: BackupWrite,
        expected: Expected,
        chunks: AsyncIterator[bytes],
    ) -> Backup:
        """Keep a backup of a version that is higher than any before."""
        user_id = principal.user_id
        allowance = await self._allowances.of(principal)
        require_tier(allowance, "backup")
        async with self._db.read() as session:
            is_again = await self.check(session, user_id, write, *expected.sha256[:1])
        if is_again:
            return await self._compare(user_id, write, expected, chunks)
        intake = Intake(user_id, "backup", expected, quota_of(allowance, "backup"))
        draft = await self._bodies.take_in(intake, chunks)
        try:
            async with self._db.begin(is_durable=True) as session:
                account = await AccountRepository(session).lock(user_id)
                backup = await self.commit(session, account, write, draft, allowance)
        except BaseException:
            await self._bodies.discard(draft)
            raise
        if backup.is_again:
            await self._bodies.discard(draft)
        return backup

    async def check(
        self, session: AsyncSession, user_id: UUID, write: BackupWrite, sha256: str = ""
    ) -> bool:
        """Whether it is there already; ``BackupVersionStale`` when another one is, or was."""
        return await self._repeated(session, user_id, write, sha256) is not None

    async def commit(
        self,
        session: AsyncSession,
        account: AccountRow,
        write: BackupWrite,
        draft: Draft,
        allowance: Allowance,
    ) -> Backup:
        """Make a draft a backup, in the transaction of the locked account.

        The draft of one that is there already is not kept.
        """
        there = await self._repeated(session, account.id, write, draft.sha256)
        if there is not None:
            return _backup(there, is_again=True)
        quota = quota_of(allowance, "backup")
        await self._bodies.keep(session, account, draft, quota)
        row = BackupRow(
            id=uuid7(),
            user_id=account.id,
            version=write.version,
            timestamp_ms=write.timestamp_ms,
            chunk_count=write.chunk_count,
            size_bytes=draft.size_bytes,
            sha256=draft.sha256,
            body_id=draft.id,
            created_at=self._clock(),
        )
        await BackupRepository(session).add(row)
        account.backup_version = write.version
        return _backup(row)

    async def latest(self, user_id: UUID) -> Backup:
        """The one with the highest version."""
        async with self._db.read() as session:
            rows = await BackupRepository(session).latest(user_id, None, 1)
        if not rows:
            raise NoSuchBackup("There is no backup.")
        return _backup(rows[0])

    async def find(self, user_id: UUID, backup_id: UUID) -> Backup:
        async with self._db.read() as session:
            row = await BackupRepository(session).owned(backup_id, user_id)
        if row is None:
            raise NoSuchBackup("There is no such backup.")
        return _backup(row)

    async def history(
        self, user_id: UUID, before_version: int | None, limit: int
    ) -> Sequence[Backup]:
        """The highest versions first."""
        async with self._db.read() as session:
            rows = await BackupRepository(session).latest(user_id, before_version, limit)
        return [_backup(row) for row in rows]

    async def remove(self, user_id: UUID, backup_id: UUID) -> None:
        """Delete it. Its version stays taken."""
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(user_id)
            repository = BackupRepository(session)
            row = await repository.owned(backup_id, user_id)
            if row is None:
                raise NoSuchBackup("There is no such backup.")
            await self._bodies.drop(session, account, row.body_id)
            await repository.remove(row)

    def read(self, backup: Backup, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Bytes ``start`` up to, not including, ``end``."""
        return self._bodies.read(backup.body_id, start, end)

    async def _compare(
        self, user_id: UUID, write: BackupWrite, expected: Expected, chunks: AsyncIterator[bytes]
    ) -> Backup:
        """Receive what is there already, and keep none of it: it needs no room."""
        sha256 = await self._bodies.measure(expected, chunks)
        async with self._db.read() as session:
            there = await self._repeated(session, user_id, write, sha256)
        if there is None:
            raise NoSuchBackup("The backup was deleted while its bytes came.")
        return _backup(there, is_again=True)

    async def _repeated(
        self, session: AsyncSession, user_id: UUID, write: BackupWrite, sha256: str
    ) -> BackupRow | None:
        row = await BackupRepository(session).of_version(user_id, write.version)
        there = None if row is None else (_write_of(row), row.sha256)
        if is_repeated(write, sha256, there):
            return row
        account = await AccountRepository(session).find(user_id)
        require_later(write, None if account is None else account.backup_version)
        return None


def _write_of(row: BackupRow) -> BackupWrite:
    return BackupWrite(row.version, row.timestamp_ms, row.chunk_count)


def _backup(row: BackupRow, *, is_again: bool = False) -> Backup:
    return Backup(
        id=row.id,
        version=row.version,
        timestamp_ms=row.timestamp_ms,
        chunk_count=row.chunk_count,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        created_at=row.created_at,
        body_id=row.body_id,
        is_again=is_again,
    )
