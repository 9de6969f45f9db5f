"""Makes revisions of records, in the transaction of the locked account."""

from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.ports import Clock
from app.modules.storage.domain.allowances import Allowance, Sums, require_room, require_tier
from app.modules.storage.domain.bodies import Draft
from app.modules.storage.domain.conditions import ANY, Condition, NoSuchRecord, decide
from app.modules.storage.domain.records import (
    NO_SHA256,
    NoSuchRevision,
    Revision,
    TableMissing,
    Written,
    refuse_retired,
    state_of,
)
from app.modules.storage.models import AccountRow
from app.modules.storage.repository.accounts import AccountRepository, sums_of
from app.modules.storage.repository.records import RecordRepository
from app.modules.storage.service.bodies import Bodies

NO_REV: Final = 0


class RecordWrite(msgspec.Struct, frozen=True):
    """One change. Without ``table`` and ``key_id`` a record keeps those it has."""

    record_id: UUID
    condition: Condition
    table: str | None = None
    key_id: str | None = None


class RecordDeletion(msgspec.Struct, frozen=True):
    """One deletion. A final one leaves nothing to restore."""

    record_id: UUID
    condition: Condition
    is_final: bool = False


class Revisions:
    """Numbers have no gap, and every body is dropped once, with the last revision that shows it."""

    def __init__(self, bodies: Bodies, clock: Clock) -> None:
        self._bodies = bodies
        self._clock = clock

    async def write(
        self,
        session: AsyncSession,
        account: AccountRow,
        write: RecordWrite,
        draft: Draft,
        allowance: Allowance,
    ) -> Written:
        """Make a draft the record's newest revision."""
        require_tier(allowance, "record")
        current = await RecordRepository(session).find(account.id, write.record_id)
        table, key_id = names_of(write, current)
        content = (draft.sha256, table, key_id)
        if decide(write.condition, state_of(current), content) == "again":
            return written(_there(current), is_again=True)
        await _refuse_retired(session, account, key_id)
        await self._bodies.keep(session, account, draft, allowance.record_bytes)
        now = self._clock()
        after = Revision(
            write.record_id,
            table,
            key_id,
            1 if current is None else current.rev + 1,
            account.seq + 1,
            is_deleted=False,
            size_bytes=draft.size_bytes,
            sha256=draft.sha256,
            body_id=draft.id,
            created_at=now if current is None else current.created_at,
            updated_at=now,
            base=write.condition.base,
        )
        await self._advance(session, account, current, after, allowance.revisions)
        return written(after, is_new=current is None or current.is_deleted)

    async def bury(
        self,
        session: AsyncSession,
        account: AccountRow,
        deletion: RecordDeletion,
        allowance: Allowance,
    ) -> Written:
        """Leave a tombstone.

        While there is more than the tier allows nothing can be restored, so nothing is kept for it
        either: deleting makes room.
        """
        current = await RecordRepository(session).find(account.id, deletion.record_id)
        is_final = deletion.is_final or _is_above(sums_of(account, "record"), allowance)
        if current is not None and is_final and _is_buried(current, deletion.condition):
            await self._trim(session, account, current, current.rev)
            return written(current, is_again=True)
        decision = decide(deletion.condition, state_of(current), None)
        current = _there(current)
        if decision == "again":
            return written(current, is_again=True)
        after = msgspec.structs.replace(
            current,
            rev=current.rev + 1,
            seq=account.seq + 1,
            is_deleted=True,
            size_bytes=0,
            sha256=NO_SHA256,
            body_id=None,
            updated_at=self._clock(),
            base=deletion.condition.base,
        )
        await self._advance(
            session, account, current, after, 0 if is_final else allowance.revisions
        )
        return written(after)

    async def restore(
        self,
        session: AsyncSession,
        account: AccountRow,
        write: RecordWrite,
        rev: int,
        allowance: Allowance,
    ) -> Written:
        """Make body, table and key of an earlier revision those of a new one, which shares the
        body: it takes no room.
        """
        require_tier(allowance, "record")
        current = _there(await RecordRepository(session).find(account.id, write.record_id))
        source = await _source(session, account, current, rev)
        if decide(write.condition, current.state, source.content) == "again":
            return written(current, is_again=True)
        await _refuse_retired(session, account, source.key_id)
        require_room(sums_of(account, "record"), 0, allowance.record_bytes)
        after = msgspec.structs.replace(
            source,
            rev=current.rev + 1,
            seq=account.seq + 1,
            created_at=current.created_at,
            updated_at=self._clock(),
            base=write.condition.base,
        )
        # The source stays as long as the restored one is current: the same request, sent again,
        # finds what it asks for.
        await self._advance(session, account, current, after, allowance.revisions, rev)
        return written(after, is_new=current.is_deleted)

    async def _advance(
        self,
        session: AsyncSession,
        account: AccountRow,
        before: Revision | None,
        after: Revision,
        kept: int,
        spared_rev: int = NO_REV,
    ) -> None:
        """Make ``after`` the current revision, and keep so many earlier ones."""
        account.seq = after.seq
        repository = RecordRepository(session)
        if before is None:
            await repository.add(account.id, after)
            return
        await repository.replace(account.id, before, after)
        if after.rev - kept > 1:
            await self._trim(session, account, after, after.rev - kept, spared_rev)

    async def _trim(
        self,
        session: AsyncSession,
        account: AccountRow,
        current: Revision,
        before_rev: int,
        spared_rev: int = NO_REV,
    ) -> None:
        trimmed = RecordRepository(session).trim(
            account.id, current.record_id, before_rev, spared_rev
        )
        for body_id in await trimmed:
            await self._bodies.drop(session, account, body_id)


def names_of(write: RecordWrite, current: Revision | None) -> tuple[str, str]:
    """Table and key of what is written."""
    if write.condition.is_new and write.table is None:
        raise TableMissing("Say with X-Table, or `table`, where the new record belongs.")
    if current is None or write.condition.is_new:
        return write.table or "", write.key_id or ""
    key_id = current.key_id if write.key_id is None else write.key_id
    return write.table or current.table, key_id


def written(revision: Revision, *, is_new: bool = False, is_again: bool = False) -> Written:
    return Written(
        revision.record_id,
        revision.table,
        revision.key_id,
        revision.rev,
        revision.etag,
        revision.seq,
        revision.size_bytes,
        revision.sha256,
        int(revision.created_at.timestamp() * 1000),
        int(revision.updated_at.timestamp() * 1000),
        is_new,
        is_again,
    )


def _is_above(sums: Sums, allowance: Allowance) -> bool:
    quota = allowance.record_bytes
    return quota is not None and sums.used_bytes + sums.reserved_bytes > quota


def _is_buried(current: Revision, condition: Condition) -> bool:
    """Whether this is the tombstone that the condition means."""
    return current.is_deleted and condition.base in {ANY, current.etag, current.base}


def _there(current: Revision | None) -> Revision:
    if current is None:
        raise NoSuchRecord("There is no such record.")
    return current


async def _source(
    session: AsyncSession, account: AccountRow, current: Revision, rev: int
) -> Revision:
    source: Revision | None = current
    if current.rev != rev:
        source = await RecordRepository(session).earlier(account.id, current.record_id, rev)
    if source is None or source.is_deleted:
        raise NoSuchRevision("This record has no such revision to restore.")
    return source


async def _refuse_retired(session: AsyncSession, account: AccountRow, key_id: str) -> None:
    if key_id:
        refuse_retired(key_id, await AccountRepository(session).retired(account.id, [key_id]))
