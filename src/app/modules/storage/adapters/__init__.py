"""Chooses who ranks vectors."""

from app.kernel.module import Kit
from app.modules.storage.ports import VectorIndex


def open_index(kit: Kit) -> VectorIndex:
    if kit.db.is_embedded:
        from app.modules.storage.adapters.blocks import BlockIndex

        return BlockIndex(kit.db, kit.house.data_dir)
    from app.modules.storage.adapters.pgvector import PgVectorIndex

    return PgVectorIndex(kit.db)
