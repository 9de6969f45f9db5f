"""The feed of a user's changes, in the order of their commits."""

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.modules.storage.domain.changes import Change, ChangePage
from app.modules.storage.domain.cursors import Cursor, Feed, kinds_of, resume, seal, unseal
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.repository.changes import ChangeRepository

NO_FEED = Feed("", 0, 0)


class Changes:
    """``cursor_keys`` sign cursors, by the id of their master secret, the newest first.

    Changes of one user are numbered while the account is locked, so whoever sees a number sees
    all smaller ones. A page is read in one snapshot.
    """

    def __init__(self, db: Database, cursor_keys: Mapping[str, bytes]) -> None:
        self._db = db
        self._keys = tuple(cursor_keys.values())

    async def page(
        self, user_id: UUID, cursor: str | None, limit: int, kinds: Collection[str]
    ) -> ChangePage:
        """What has changed since the cursor, each thing once, at its newest change."""
        wanted = kinds_of(kinds)
        known = None if cursor is None else unseal(cursor, user_id, self._keys)
        async with self._db.read() as session:
            feed = await _feed(session, user_id)
            after_seq = resume(known, wanted, feed)
            found = await _changes(session, user_id, after_seq, limit + 1, kinds)
        has_more = len(found) > limit
        items = found[:limit]
        seq = items[-1].seq if has_more else feed.seq
        here = Cursor(feed.epoch, seq, feed.floor_seq, wanted)
        return ChangePage(items, seal(here, user_id, self._keys[0]), has_more)


async def _feed(session: AsyncSession, user_id: UUID) -> Feed:
    account = await AccountRepository(session).find(user_id)
    return NO_FEED if account is None else Feed(account.epoch, account.seq, account.floor_seq)


async def _changes(
    session: AsyncSession, user_id: UUID, after_seq: int, limit: int, kinds: Collection[str]
) -> list[Change]:
    repository = ChangeRepository(session)
    found: list[Change] = []
    if "record" in kinds:
        found += await repository.of_records(user_id, after_seq, limit)
    if "vector" in kinds:
        found += await repository.of_vectors(user_id, after_seq, limit)
    return sorted(found, key=lambda change: change.seq)[:limit]
