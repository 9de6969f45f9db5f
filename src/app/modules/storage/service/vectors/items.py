"""Vectors: what is put into collections, what counts, and what a search finds."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database, uuid7
from app.kernel.ports import Clock
from app.modules.auth.api import Principal
from app.modules.storage.domain.allowances import require_room, require_tier
from app.modules.storage.domain.searches import Alike, Ranked, Ranking, Search, Shown
from app.modules.storage.domain.vectors import (
    ANSWER_LIMIT_BYTES,
    DEFAULT_NAME,
    SEALED_LIMIT_BYTES,
    AnswerTooLarge,
    ClientIndexCollection,
    EpochMismatch,
    Item,
    Mode,
    NoSuchVector,
    Wish,
    define,
    require_epoch,
    require_items,
    require_known_epoch,
    require_tags,
    require_vector,
)
from app.modules.storage.models import AccountRow, CollectionRow, VectorRow
from app.modules.storage.ports import Found, VectorIndex, VectorQuery
from app.modules.storage.repository.accounts import AccountRepository, sums_of
from app.modules.storage.repository.vectors import (
    CollectionRepository,
    Known,
    VectorRepository,
)
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.vectors.ledger import (
    CollectionBusy,
    bury,
    count,
    definition,
    find,
    make,
    unknown,
)

# What a search found may have changed before it is read; then it is sought again.
SEARCHES_LIMIT: Final = 16


class Vectors:
    def __init__(
        self, db: Database, index: VectorIndex, allowances: Allowances, clock: Clock
    ) -> None:
        self._db = db
        self._index = index
        self._allowances = allowances
        self._clock = clock

    async def upsert(
        self, principal: Principal, name: str | None, epoch: int | None, items: Sequence[Item]
    ) -> int:
        """Put all items into a collection, or none; what is there already stays as it is.

        Without a name it is the sealed ``default``, made when it is first needed.
        """
        allowance = await self._allowances.of(principal)
        require_tier(allowance, "record")
        kind = await self._kind(principal.user_id, name)
        # Megabytes of numbers are looked at, so others get their turns meanwhile.
        await asyncio.to_thread(require_items, items, *kind)
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(principal.user_id)
            row = await _open(session, principal.user_id, name)
            if (row.mode, row.dimension) != kind:
                raise CollectionBusy("The collection has become another one meanwhile; try again.")
            current = require_epoch(row.epoch, epoch)
            known = await VectorRepository(session).known(row.id, [one.item_id for one in items])
            changed = [one for one in items if not _is_same(known.get(one.item_id), one, current)]
            before = [known[one.item_id] for one in changed if one.item_id in known]
            more = sum(o.size_bytes for o in changed) - sum(k.size_bytes for k in before)
            if changed:
                require_room(sums_of(account, "record"), more, allowance.record_bytes)
                await VectorRepository(session).put(self._rows(account, row, changed, known))
                count(account, row, len(changed), more)
                row.vector_count += len(changed) - sum(not k.is_deleted for k in before)
        return len(items)

    async def search(self, user_id: UUID, wanted: Search) -> Ranking:
        """Rank a collection; never one that the server cannot see into."""
        require_tags(wanted.tags)
        for _ in range(SEARCHES_LIMIT):
            collection = await self._searchable(user_id, wanted)
            epoch = require_known_epoch(collection.epoch, wanted.epoch)
            found = await self._index.search(_query(collection, epoch, wanted))
            async with self._db.read() as session:
                repository = VectorRepository(session)
                if not found.scanned and epoch != collection.epoch:
                    await _require_items_of(repository, collection, epoch)
                items = await _read(repository, collection.id, found, wanted.tags)
            if len(items) == len(found.hits):
                return Ranking(items, found.scanned, definition(collection), epoch)
        raise CollectionBusy("The collection changed during the search; search again.")

    async def alike(self, user_id: UUID, sealed_sha256: str, limit: int) -> Alike:
        """All that can be said of blobs: which are exactly this one, and which are new."""
        async with self._db.read() as session:
            row = await CollectionRepository(session).find(user_id, DEFAULT_NAME)
            if row is None:
                return Alike("sealed")
            vectors = VectorRepository(session)
            equal = await vectors.equal_to(row.id, sealed_sha256, limit)
            newest = await vectors.newest(row.id, limit + len(equal))
            others = [one for one in newest if one not in set(equal)][: limit - len(equal)]
            found = await _rows(vectors, row.id, [*equal, *others])
        return Alike(row.mode, [found[one] for one in equal], [found[one] for one in others])

    async def find(self, user_id: UUID, name: str, item_id: str) -> tuple[CollectionRow, VectorRow]:
        async with self._db.read() as session:
            collection = await find(session, user_id, name)
            row = await VectorRepository(session).find(collection.id, item_id)
        if row is None:
            raise NoSuchVector("There is no such vector.")
        return collection, row

    async def remove(self, user_id: UUID, name: str | None, item_ids: Sequence[str]) -> int:
        """Bury these, as far as they are there; how many were."""
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(user_id)
            row = await CollectionRepository(session).find(user_id, name or DEFAULT_NAME)
            if row is None:
                if name is None:
                    return 0
                raise unknown(name)
            sizes = await VectorRepository(session).sizes(row.id, item_ids, len(item_ids))
            await bury(session, account, row, sizes)
        return len(sizes)

    async def _kind(self, user_id: UUID, name: str | None) -> tuple[Mode, int]:
        """Mode and dimension of the collection to write to."""
        async with self._db.read() as session:
            row = await CollectionRepository(session).find(user_id, name or DEFAULT_NAME)
        if row is not None:
            return definition(row).mode, row.dimension
        if name is None:
            return "sealed", 0
        raise unknown(name)

    async def _searchable(self, user_id: UUID, wanted: Search) -> CollectionRow:
        async with self._db.read() as session:
            row = await find(session, user_id, wanted.collection)
        if row.mode == "sealed":
            raise ClientIndexCollection(
                "The server cannot see into a sealed collection: fetch it by the feed, and search "
                "on the device."
            )
        require_vector(wanted.vector, row.dimension)
        return row

    def _rows(
        self,
        account: AccountRow,
        collection: CollectionRow,
        items: Sequence[Item],
        known: Mapping[str, Known],
    ) -> list[dict[str, Any]]:
        now = self._clock()
        return [
            {
                "id": uuid7(),
                "created_at": now,
                "updated_at": now,
                "user_id": account.id,
                "collection_id": collection.id,
                "item_id": item.item_id,
                "seq": account.seq + i,
                "collection_seq": collection.seq + i,
                "rev": known[item.item_id].rev + 1 if item.item_id in known else 1,
                "is_deleted": False,
                "epoch": collection.epoch,
                "vector": item.vector,
                "sealed": item.sealed,
                "size_bytes": item.size_bytes,
                "sha256": item.sha256.lower(),
                "tags": dict(item.tags),
            }
            for i, item in enumerate(items, 1)
        ]


async def _open(session: AsyncSession, user_id: UUID, name: str | None) -> CollectionRow:
    """The collection to write to."""
    if name is not None:
        return await find(session, user_id, name)
    row = await CollectionRepository(session).find(user_id, DEFAULT_NAME)
    return row or await make(session, user_id, DEFAULT_NAME, define(Wish("sealed")))


def _is_same(known: Known | None, item: Item, epoch: int) -> bool:
    """Whether writing the item would change nothing."""
    if known is None or known.is_deleted:
        return False
    is_same_content = (known.sha256, known.vector) == (item.sha256.lower(), item.vector)
    return is_same_content and (known.epoch, known.tags) == (epoch, item.tags)


def _query(collection: CollectionRow, epoch: int, wanted: Search) -> VectorQuery:
    return VectorQuery(
        collection_id=collection.id,
        dimension=collection.dimension,
        seq=collection.seq,
        count=collection.vector_count,
        epoch=epoch,
        vector=wanted.vector,
        limit=wanted.limit,
        tags=wanted.tags,
    )


async def _require_items_of(
    repository: VectorRepository, collection: CollectionRow, epoch: int
) -> None:
    """An earlier epoch that nothing is left of is a wrong one."""
    if not await repository.has_epoch(collection.id, epoch):
        raise EpochMismatch(
            f"This collection is at epoch {collection.epoch}.", epoch=collection.epoch
        )


async def _read(
    repository: VectorRepository, collection_id: UUID, found: Found, tags: Mapping[str, str]
) -> list[Ranked]:
    """What was found, as far as it is still what was ranked."""
    rows = await _rows(repository, collection_id, [hit.item_id for hit in found.hits])
    return [
        Ranked(row, hit.distance)
        for hit in found.hits
        if (row := rows.get(hit.item_id)) is not None
        and row.collection_seq == hit.seq
        and {**row.tags, **tags} == row.tags
    ]


async def _rows(
    repository: VectorRepository, collection_id: UUID, item_ids: Sequence[str]
) -> dict[str, Shown]:
    """Read live items, unless they are more than one answer may carry."""
    if len(item_ids) * SEALED_LIMIT_BYTES > ANSWER_LIMIT_BYTES:
        sizes = await repository.sizes(collection_id, item_ids, len(item_ids))
        if sum(sizes.values()) > ANSWER_LIMIT_BYTES:
            raise AnswerTooLarge(
                f"These are more than {ANSWER_LIMIT_BYTES} bytes; ask for fewer.",
                max_bytes=ANSWER_LIMIT_BYTES,
            )
    return await repository.shown(collection_id, item_ids)
