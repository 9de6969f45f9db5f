"""The making and the end of collections, on both databases."""

import asyncio

import pytest
from sqlalchemy import func, select

from app.modules.storage.domain.vectors import COLLECTIONS_LIMIT, TooManyCollections, Wish
from app.modules.storage.models import CollectionRow, VectorRow
from tests.modules.storage.desks import ANNA, principal
from tests.modules.storage.vectors import items, points


class TestPut:
    async def test_there_are_so_many_at_most(self, shelf):
        async with shelf.db.begin() as session:
            made = (_row(f"c{i}") for i in range(COLLECTIONS_LIMIT))
            session.add_all(made)

        with pytest.raises(TooManyCollections):
            await shelf.storage.collections.put(principal(), "one-more", Wish("sealed"), None)

        row = await shelf.storage.collections.put(principal(), "c0", Wish("sealed"), None)
        assert row.name == "c0"

    async def test_the_same_name_at_once_makes_one(self, shelf):
        puts = [
            shelf.storage.collections.put(principal(), "notes", Wish("plain", 8), None)
            for _ in range(5)
        ]

        made = await asyncio.gather(*puts)

        assert len({row.id for row in made}) == 1


class TestRemove:
    async def test_goes_over_many_pages(self, shelf, monkeypatch):
        monkeypatch.setattr("app.modules.storage.service.vectors.collections.PAGE_ROWS", 7)
        storage = shelf.storage
        await storage.collections.put(principal(), "notes", Wish("plain", 8), None)
        await storage.vectors.upsert(principal(), "notes", None, items(points(30)))

        await storage.collections.remove(ANNA, "notes")

        account = await shelf.account()
        assert (account.record_bytes, account.seq) == (0, 60)
        assert await storage.collections.all(ANNA) == []


class TestTidy:
    async def test_forgets_a_deleted_collection_without_tombstones(self, shelf):
        await shelf.storage.collections.put(principal(), "empty", Wish("plain", 8), None)
        await shelf.storage.collections.remove(ANNA, "empty")

        await shelf.storage.collections.tidy()

        assert await _count(shelf, CollectionRow) == 0

    async def test_keeps_one_that_has_some(self, shelf):
        await shelf.storage.collections.put(principal(), "notes", Wish("plain", 8), None)
        await shelf.storage.vectors.upsert(principal(), "notes", None, items(points(1)))
        await shelf.storage.collections.remove(ANNA, "notes")

        await shelf.storage.collections.tidy()

        assert (await _count(shelf, CollectionRow), await _count(shelf, VectorRow)) == (1, 1)


def _row(name: str) -> CollectionRow:
    return CollectionRow(
        user_id=ANNA, name=name, mode="sealed", dimension=0, model="", epoch=1, beta=None
    )


async def _count(shelf, kind) -> int:
    async with shelf.db.read() as session:
        return await session.scalar(select(func.count(kind.id)))
