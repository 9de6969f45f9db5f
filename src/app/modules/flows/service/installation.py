"""The installation's flows: what its files say, kept as definitions for whoever runs them."""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec

from app.kernel.db import Database
from app.modules.flows.domain.definitions import Flow
from app.modules.flows.domain.versions import Stored, encode
from app.modules.flows.ports import FlowFiles
from app.modules.flows.repository.flows import FlowRepository

NOTHING: Final[Mapping[str, Flow]] = {}


class Head(msgspec.Struct, frozen=True):
    """What a file says now, and the id of its definition."""

    definition_id: UUID
    stored: Stored
    size_bytes: int


class Installation:
    def __init__(self, db: Database, files: FlowFiles) -> None:
        self._db = db
        self._files = files
        self._read = NOTHING
        self._heads: Mapping[str, Head] = {}
        self._publishing = asyncio.Lock()

    async def flows(self) -> Mapping[str, Head]:
        """Every flow by its id; the same object until a file changes."""
        read = await self._files.read()
        if read is not self._read:
            async with self._publishing:
                if read is not self._read:
                    self._heads = await self._published(read)
                    self._read = read
        return self._heads

    async def _published(self, read: Mapping[str, Flow]) -> Mapping[str, Head]:
        flows = list(read.values())
        async with self._db.begin() as session:
            repository = FlowRepository(session)
            rows = await repository.write(None, flows)
            kept = {row.id: row for row in await repository.definitions([row.id for row in rows])}
            begun = await repository.begun(list(read))
        return {
            row.flow_id: Head(
                row.id,
                Stored(flow, "file", None, begun[row.flow_id], kept[row.id].created_at),
                len(encode(flow)),
            )
            for row, flow in zip(rows, flows, strict=True)
        }
