"""Collections of vectors: what each is, and who may make how many."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from app.kernel.db import Database
from app.modules.auth.api import Principal
from app.modules.storage.domain.allowances import require_tier
from app.modules.storage.domain.vectors import (
    COLLECTIONS_LIMIT,
    Wish,
    define,
    redefine,
    require_acknowledgement,
    require_name,
)
from app.modules.storage.models import CollectionRow
from app.modules.storage.ports import VectorIndex
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.repository.vectors import CollectionRepository, VectorRepository
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.vectors.ledger import (
    CollectionBusy,
    bury,
    definition,
    find,
    make,
)

# A collection is emptied in transactions of so many vectors, and of so many transactions at most.
PAGE_ROWS: Final = 1000
PAGES_LIMIT: Final = 100_000


class Collections:
    """A collection is one user's; to everybody else it is not there."""

    def __init__(self, db: Database, index: VectorIndex, allowances: Allowances) -> None:
        self._db = db
        self._index = index
        self._allowances = allowances

    async def put(
        self, principal: Principal, name: str, wish: Wish, leakage_ack: str | None
    ) -> CollectionRow:
        """Make a collection, leave it as it is, or take it to a higher epoch."""
        require_name(name)
        require_tier(await self._allowances.of(principal), "record")
        require_acknowledgement(wish, leakage_ack)
        async with self._db.begin(is_durable=True) as session:
            await AccountRepository(session).lock(principal.user_id)
            row = await CollectionRepository(session).find(principal.user_id, name)
            if row is None:
                return await make(session, principal.user_id, name, define(wish))
            after = redefine(definition(row), wish)
            row.epoch, row.model, row.beta = after.epoch, after.model, after.beta
        return row

    async def all(self, user_id: UUID) -> Sequence[CollectionRow]:
        async with self._db.read() as session:
            return await CollectionRepository(session).all(user_id, COLLECTIONS_LIMIT)

    async def find(self, user_id: UUID, name: str) -> CollectionRow:
        """One collection; ``NoSuchCollection``."""
        async with self._db.read() as session:
            return await find(session, user_id, name)

    async def remove(self, user_id: UUID, name: str) -> None:
        """Bury every vector, so that the feed tells of each, then the collection.

        A crash on the way leaves a smaller collection, to be removed again.
        """
        for _ in range(PAGES_LIMIT):
            collection_id = await self._remove_page(user_id, name)
            if collection_id is not None:
                await self._index.forget(collection_id)
                return
        raise CollectionBusy("Vectors kept coming; delete the collection again.")

    async def tidy(self) -> None:
        """Remove what is left of collections that are gone; a periodic job calls it."""
        async with self._db.begin() as session:
            await CollectionRepository(session).forget_deleted()
        await self._index.tidy()

    async def _remove_page(self, user_id: UUID, name: str) -> UUID | None:
        """Bury some; the collection's id once it is gone."""
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(user_id)
            row = await find(session, user_id, name)
            sizes = await VectorRepository(session).sizes(row.id, None, PAGE_ROWS)
            await bury(session, account, row, sizes)
            if len(sizes) == PAGE_ROWS:
                return None
            row.is_deleted = True
        return row.id
