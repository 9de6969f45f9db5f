"""Several changes at once, all or none."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.errors import AppError, Unavailable
from app.modules.auth.api import Principal
from app.modules.storage.domain.allowances import Allowance, require_tier
from app.modules.storage.domain.batches import Contents, Done, Operation
from app.modules.storage.domain.bodies import Draft
from app.modules.storage.domain.conditions import check, condition
from app.modules.storage.domain.digests import Expected, parse_hex
from app.modules.storage.domain.records import Written, state_of
from app.modules.storage.models import AccountRow
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.repository.records import RecordRepository
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.records import (
    Incoming,
    RecordDeletion,
    Records,
    RecordWrite,
)


class Failed(msgspec.Struct, frozen=True):
    """Which one failed, by its place in the batch, and why."""

    index: int
    record_id: UUID
    error: AppError


class Outcome(msgspec.Struct, frozen=True):
    """Either every operation was done, or some failed and none was."""

    done: Sequence[Done] = ()
    failed: Sequence[Failed] = ()


class _Refused(Exception):
    """Rolls back what the others have done."""


class Batches:
    def __init__(self, db: Database, records: Records, allowances: Allowances) -> None:
        self._db = db
        self._records = records
        self._allowances = allowances

    async def apply(self, principal: Principal, operations: Sequence[Operation]) -> Outcome:
        """Do all of it in one transaction. No two operations are on one record."""
        allowance = await self._allowances.of(principal)
        if any(operation.contents for operation in operations):
            require_tier(allowance, "record")
        batch = _Batch(self._records, allowance, operations)
        try:
            await batch.take_in(principal.user_id)
            async with self._db.begin(is_durable=True) as session:
                account = await AccountRepository(session).lock(principal.user_id)
                await batch.commit(session, account)
        except _Refused:
            return Outcome(failed=batch.failed)
        finally:
            await batch.discard()
        return Outcome(batch.done)


class _Batch:
    """One batch on its way: the bodies that have come, and what became of each operation."""

    def __init__(
        self, records: Records, allowance: Allowance, operations: Sequence[Operation]
    ) -> None:
        self.done: list[Done] = []
        self.failed: list[Failed] = []
        self._records = records
        self._allowance = allowance
        self._operations = operations
        self._drafts: dict[int, Draft] = {}

    async def take_in(self, user_id: UUID) -> None:
        for index, operation in enumerate(self._operations):
            if operation.contents is None:
                continue
            try:
                incoming = _incoming(operation.contents)
                draft = await self._records.take_in(user_id, incoming, self._allowance)
                self._drafts[index] = draft
            except AppError as error:
                self._fail(index, error)

    async def commit(self, session: AsyncSession, account: AccountRow) -> None:
        """Try every operation, so that all reasons are told, and refuse all when one fails."""
        has_failed = {one.index for one in self.failed}
        for index in range(len(self._operations)):
            if index in has_failed:
                continue
            try:
                self.done.append(await self._do(session, account, index))
            except AppError as error:
                self._fail(index, error)
        if self.failed:
            self.failed.sort(key=lambda one: one.index)
            raise _Refused

    async def discard(self) -> None:
        """Of those that were kept nothing is given up."""
        for draft in self._drafts.values():
            await self._records.discard(draft)

    def _fail(self, index: int, error: AppError) -> None:
        # That the database or the blob store is away is nobody's fault, and the whole's answer.
        if isinstance(error, Unavailable):
            raise error
        self.failed.append(Failed(index, self._operations[index].record_id, error))

    async def _do(self, session: AsyncSession, account: AccountRow, index: int) -> Done:
        operation = self._operations[index]
        wanted = condition(operation.if_match, operation.if_none_match)
        record_id, revisions = operation.record_id, self._records.revisions
        if operation.contents is not None:
            given = operation.contents
            write = RecordWrite(record_id, wanted, given.table, given.key_id)
            draft = self._drafts[index]
            return _done(
                operation, await revisions.write(session, account, write, draft, self._allowance)
            )
        if operation.verb == "delete":
            deletion = RecordDeletion(record_id, wanted)
            return _done(
                operation, await revisions.bury(session, account, deletion, self._allowance)
            )
        current = await RecordRepository(session).find(account.id, record_id)
        check(wanted, state_of(current))
        if current is None or current.is_deleted:
            return Done("check", record_id)
        return Done("check", record_id, current.etag, current.seq)


def _incoming(contents: Contents) -> Incoming:
    expected = Expected(len(contents.blob), (parse_hex(contents.checksum),))
    return Incoming(expected, _once(contents.blob))


async def _once(blob: bytes) -> AsyncIterator[bytes]:
    yield blob


def _done(operation: Operation, written: Written) -> Done:
    return Done(operation.verb, written.record_id, written.etag, written.seq, written.is_new)
