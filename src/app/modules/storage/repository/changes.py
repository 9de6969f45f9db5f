"""Statements about what has changed."""

from typing import Final, cast
from uuid import UUID

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.storage.domain.changes import Change
from app.modules.storage.domain.conditions import etag_of
from app.modules.storage.models import CollectionRow, RecordRow, VectorRow

RECORDS: Final = cast(Table, RecordRow.__table__).c
VECTORS: Final = cast(Table, VectorRow.__table__).c
COLLECTIONS: Final = cast(Table, CollectionRow.__table__).c


class ChangeRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def of_records(self, user_id: UUID, after_seq: int, limit: int) -> list[Change]:
        """Records that have changed since, in the order of their newest changes."""
        found = (
            select(
                RECORDS.seq,
                RECORDS.id,
                RECORDS.table_name,
                RECORDS.rev,
                RECORDS.sha256,
                RECORDS.key_id,
                RECORDS.size_bytes,
                RECORDS.is_deleted,
                RECORDS.updated_at,
            )
            .where(RECORDS.user_id == user_id, RECORDS.seq > after_seq)
            .order_by(RECORDS.seq)
            .limit(limit)
        )
        return [
            Change(
                seq, "record", str(one), table, etag_of(rev, sha256), key_id, size, sha256, *rest
            )
            for seq, one, table, rev, sha256, key_id, size, *rest in await self._session.execute(
                found
            )
        ]

    async def of_vectors(self, user_id: UUID, after_seq: int, limit: int) -> list[Change]:
        """Vectors that have changed since; their table is their collection's name."""
        found = (
            select(
                VECTORS.seq,
                VECTORS.item_id,
                COLLECTIONS.name,
                VECTORS.rev,
                VECTORS.sha256,
                VECTORS.size_bytes,
                VECTORS.is_deleted,
                VECTORS.updated_at,
            )
            .join_from(
                VectorRow.__table__,
                CollectionRow.__table__,
                COLLECTIONS.id == VECTORS.collection_id,
            )
            .where(VECTORS.user_id == user_id, VECTORS.seq > after_seq)
            .order_by(VECTORS.seq)
            .limit(limit)
        )
        return [
            Change(seq, "vector", one, name, etag_of(rev, sha256), "", size, sha256, *rest)
            for seq, one, name, rev, sha256, size, *rest in await self._session.execute(found)
        ]
