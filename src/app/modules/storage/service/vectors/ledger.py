"""What both verbs of a collection and of its vectors need: finding one, making one, counting."""

from collections.abc import Mapping
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.errors import Unavailable
from app.kernel.ports import utc_now
from app.modules.storage.domain.vectors import (
    COLLECTIONS_LIMIT,
    Definition,
    NoSuchCollection,
    TooManyCollections,
)
from app.modules.storage.models import AccountRow, CollectionRow
from app.modules.storage.repository.accounts import add
from app.modules.storage.repository.vectors import CollectionRepository, VectorRepository


class CollectionBusy(Unavailable):
    """Others write to it faster than this can be done."""

    title = "Collection busy"


def unknown(name: str) -> NoSuchCollection:
    return NoSuchCollection(f"There is no collection {name[:64]!r}; GET /collections lists yours.")


def definition(row: CollectionRow) -> Definition:
    return msgspec.convert(row, Definition, from_attributes=True)


async def find(session: AsyncSession, user_id: UUID, name: str) -> CollectionRow:
    row = await CollectionRepository(session).find(user_id, name)
    if row is None:
        raise unknown(name)
    return row


async def make(
    session: AsyncSession, user_id: UUID, name: str, definition: Definition
) -> CollectionRow:
    if await CollectionRepository(session).count(user_id) >= COLLECTIONS_LIMIT:
        raise TooManyCollections(f"You have {COLLECTIONS_LIMIT} collections; delete one.")
    row = CollectionRow(user_id=user_id, name=name, **msgspec.structs.asdict(definition))
    await CollectionRepository(session).add(row)
    return row


async def bury(
    session: AsyncSession, account: AccountRow, row: CollectionRow, sizes: Mapping[str, int]
) -> None:
    """Make tombstones, and give the room back."""
    if not sizes:
        return
    seqs = (account.seq, row.seq)
    await VectorRepository(session).bury(row.id, list(sizes), seqs, utc_now())
    count(account, row, len(sizes), -sum(sizes.values()))
    row.vector_count -= len(sizes)


def count(account: AccountRow, row: CollectionRow, changes: int, more_bytes: int) -> None:
    account.seq += changes
    row.seq += changes
    row.size_bytes += more_bytes
    add(account, "record", used_bytes=more_bytes)
