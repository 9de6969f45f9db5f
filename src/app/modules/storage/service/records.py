"""Creates, changes, deletes and finds records, one locked account at a time."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.ports import Clock
from app.modules.auth.api import Principal
from app.modules.storage.domain.allowances import Allowance, require_tier
from app.modules.storage.domain.bodies import Draft
from app.modules.storage.domain.conditions import ANY, NoSuchRecord, decide
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.records import NoSuchRevision, Pick, Revision, Written, state_of
from app.modules.storage.models import AccountRow
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.repository.records import RecordRepository
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.bodies import Bodies, Intake
from app.modules.storage.service.revisions import (
    RecordDeletion,
    RecordWrite,
    Revisions,
    names_of,
    written,
)

__all__ = ["Found", "Incoming", "RecordDeletion", "RecordWrite", "Records", "Written"]

# More than any tier keeps, with the current one.
VERSIONS_LIMIT: Final = 128
# What no body is, to see whether a change would be refused whatever it brings.
NOT_YET: Final = ("", "", "")


class Incoming(msgspec.Struct, frozen=True):
    """Bytes on their way in, and what is said of them."""

    expected: Expected
    chunks: AsyncIterator[bytes]


class Found(msgspec.Struct, frozen=True):
    """A revision and, when they lie in the database, its bytes."""

    revision: Revision
    inline: bytes | None = None


class Records:
    def __init__(self, db: Database, bodies: Bodies, allowances: Allowances, clock: Clock) -> None:
        self._db = db
        self._bodies = bodies
        self._allowances = allowances
        self.revisions = Revisions(bodies, clock)

    @property
    def most_bytes(self) -> int:
        """No record is larger."""
        return self._bodies.most_bytes

    async def put(self, principal: Principal, write: RecordWrite, incoming: Incoming) -> Written:
        """Receive a body and make it the record's newest revision."""
        allowance = await self._allowances.of(principal)
        require_tier(allowance, "record")
        if await self._is_repeated(principal.user_id, write, incoming.expected):
            return await self._compare(principal.user_id, write, incoming)
        draft = await self.take_in(principal.user_id, incoming, allowance)
        done = None
        try:
            async with self._db.begin(is_durable=True) as session:
                account = await AccountRepository(session).lock(principal.user_id)
                # The account is written once, by the commit, not before each statement.
                with session.no_autoflush:
                    done = await self.commit(session, account, write, draft, allowance)
        finally:
            if done is None or done.is_again:
                await self.discard(draft)
        return done

    async def take_in(self, user_id: UUID, incoming: Incoming, allowance: Allowance) -> Draft:
        """Receive a body. Whoever does not commit it discards it."""
        intake = Intake(user_id, "record", incoming.expected, allowance.record_bytes)
        return await self._bodies.take_in(intake, incoming.chunks)

    async def discard(self, draft: Draft) -> None:
        await self._bodies.discard(draft)

    async def commit(
        self,
        session: AsyncSession,
        account: AccountRow,
        write: RecordWrite,
        draft: Draft,
        allowance: Allowance,
    ) -> Written:
        """Make a draft the record's newest revision, in the transaction of the locked account."""
        return await self.revisions.write(session, account, write, draft, allowance)

    async def delete(self, principal: Principal, deletion: RecordDeletion) -> Written:
        """Leave a tombstone. Everybody may delete, in whatever tier."""
        allowance = await self._allowances.of(principal)
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(principal.user_id)
            return await self.revisions.bury(session, account, deletion, allowance)

    async def restore(self, principal: Principal, write: RecordWrite, rev: int) -> Written:
        """Make an earlier revision the newest one."""
        allowance = await self._allowances.of(principal)
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(principal.user_id)
            return await self.revisions.restore(session, account, write, rev, allowance)

    async def get(self, user_id: UUID, record_id: UUID, pick: Pick | None = None) -> Found:
        """The record as it is, or at an earlier revision, which a deleted one has too."""
        async with self._db.read() as session:
            repository = RecordRepository(session)
            found = await repository.with_bytes(user_id, record_id)
            if pick is not None and (found is None or found[0].rev != pick.rev):
                earlier = await repository.earlier(user_id, record_id, pick.rev)
                found = None if earlier is None else (earlier, None)
        if pick is not None and (found is None or not pick.fits(found[0])):
            raise NoSuchRevision("This record has no such revision.")
        if found is None or found[0].is_deleted:
            raise NoSuchRecord("There is no such record.")
        return Found(*found)

    def read(self, found: Found, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Bytes ``start`` up to, not including, ``end`` of what was found."""
        if found.revision.body_id is None:
            raise NoSuchRecord("There is no such record.")
        return self._bodies.read(found.revision.body_id, start, end)

    async def page(
        self, user_id: UUID, table: str | None, after: UUID | None, limit: int
    ) -> list[Revision]:
        """Records in the order of their ids, those behind ``after``."""
        async with self._db.read() as session:
            return await RecordRepository(session).page(user_id, table, after, limit)

    async def numbered_page(
        self, user_id: UUID, table: str | None, number: int, limit: int
    ) -> list[Revision]:
        """The same by the number of the page, the first one 1."""
        skip = (number - 1) * limit
        async with self._db.read() as session:
            return await RecordRepository(session).numbered_page(user_id, table, skip, limit)

    async def versions(self, user_id: UUID, record_id: UUID) -> list[Revision]:
        """All revisions that there are, newest first; a deleted record has them too."""
        async with self._db.read() as session:
            repository = RecordRepository(session)
            current = await repository.find(user_id, record_id)
            if current is None:
                raise NoSuchRecord("There is no such record.")
            return [current, *await repository.history(user_id, record_id, VERSIONS_LIMIT)]

    async def _is_repeated(self, user_id: UUID, write: RecordWrite, expected: Expected) -> bool:
        """Whether a large body has probably come before, and there need be no room for it again.

        A change that will be refused is refused here, before all of its bytes have come.
        """
        if self._bodies.is_small(expected.size_bytes):
            return False
        async with self._db.read() as session:
            current = await RecordRepository(session).find(user_id, write.record_id)
        if current is not None and not current.is_deleted and write.condition.base != ANY:
            known = (write.condition.base, expected.size_bytes)
            if (current.base, current.size_bytes) == known:
                return True
        decide(write.condition, state_of(current), NOT_YET)
        return False

    async def _compare(self, user_id: UUID, write: RecordWrite, incoming: Incoming) -> Written:
        """Receive what has probably come before, and keep none of it."""
        sha256 = await self._bodies.measure(incoming.expected, incoming.chunks)
        async with self._db.begin(is_durable=True) as session:
            current = await RecordRepository(session).find(user_id, write.record_id)
        content = (sha256, *names_of(write, current))
        decision = decide(write.condition, state_of(current), content)
        if current is None or decision != "again":
            raise Unavailable("The record has changed while its bytes came; send them again.")
        return written(current, is_again=True)
