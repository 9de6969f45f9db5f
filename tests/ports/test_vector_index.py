"""One suite for every ``VectorIndex``: memory-mapped files, and pgvector."""

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, text, update

from app.kernel.db import Database, Table
from app.kernel.jobs import JobBook
from app.kernel.ports import utc_now
from app.kernel.settings import Secret
from app.modules.billing.api import Tier
from app.modules.storage.adapters.blocks import FOLLOW_ROWS, BlockIndex, IndexFull
from app.modules.storage.adapters.pgvector import PgVectorIndex, VectorsNotBuilt
from app.modules.storage.adapters.shelf import DEAD_ROWS, FIRST_ROWS
from app.modules.storage.domain.vectors import Item, Wish
from app.modules.storage.models import CollectionRow, VectorRow
from app.modules.storage.ports import Found, VectorIndex, VectorQuery
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.vectors import Collections, Vectors
from app.settings import HouseSettings
from tests.modules.storage.desks import ANNA, FixedTiers, people, principal
from tests.modules.storage.vectors import DIMENSION, brute_force, item, items, points

NAME = "notes"
TEAM: Tier = "team"


class Bench:
    """A table of vectors, and an index beside it."""

    def __init__(self, db: Database, index: Any, folder: Path) -> None:
        allowances = Allowances(FixedTiers(TEAM))
        self.db = db
        self.index: VectorIndex = index
        self.folder = folder
        self.collections = Collections(db, index, allowances)
        self.vectors = Vectors(db, index, allowances, utc_now)

    async def make(self, dimension: int = DIMENSION, name: str = NAME) -> CollectionRow:
        return await self.collections.put(principal(), name, Wish("plain", dimension), None)

    async def put(self, *given: Item, name: str = NAME) -> None:
        for start in range(0, len(given), 1000):
            part = given[start : start + 1000]
            await self.vectors.upsert(principal(), name, None, part)

    async def remove(self, *ids: str) -> None:
        for start in range(0, len(ids), 1000):
            await self.vectors.remove(ANNA, NAME, ids[start : start + 1000])

    async def find(
        self, query: np.ndarray, limit: int = 10, *, name: str = NAME, **more: Any
    ) -> Found:
        row = await self.collections.find(ANNA, name)
        asked = {"epoch": row.epoch, "seq": row.seq, "count": row.vector_count, **more}
        raw = query.astype("<f4").tobytes()
        return await self.index.search(
            VectorQuery(
                collection_id=row.id, dimension=row.dimension, vector=raw, limit=limit, **asked
            )
        )

    async def names(self, query: np.ndarray, limit: int = 10, **more: Any) -> list[str]:
        return [hit.item_id for hit in (await self.find(query, limit, **more)).hits]

    async def shelf(self) -> Path:
        """The folder of the collection's files."""
        row = await self.collections.find(ANNA, NAME)
        return self.folder / "vectors" / str(row.id)

    async def reopen(self) -> None:
        """The process ends, and another one begins."""
        await self.index.close()
        self.index = BlockIndex(self.db, str(self.folder))


async def _open(db: Database, index: Any, folder: Path) -> AsyncIterator[Bench]:
    await people(db)
    bench = Bench(db, index, folder)
    yield bench
    await bench.index.close()


@pytest.fixture
async def bench(db: Database, tmp_path: Path):
    """An index of the kind that belongs to the database."""
    index = BlockIndex(db, str(tmp_path)) if db.is_embedded else PgVectorIndex(db)
    async for found in _open(db, index, tmp_path):
        yield found


@pytest.fixture
async def embedded(sqlite: Database, tmp_path: Path):
    async for found in _open(sqlite, BlockIndex(sqlite, str(tmp_path)), tmp_path):
        yield found


@pytest.fixture
async def served(postgres_url: str, tmp_path: Path):
    """With pgvector, where all but the smallest collections are ranked by HNSW."""
    db = Database(HouseSettings(database_url=Secret(postgres_url)).sqlalchemy_url, JobBook())
    async with db.writer.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    async for found in _open(db, PgVectorIndex(db, exact_rows=10), tmp_path):
        yield found
    await db.close()


class TestSearch:
    @pytest.mark.parametrize("limit", [1, 10, 64, 500])
    async def test_orders_as_brute_force_does(self, bench, limit):
        await bench.make(32)
        vectors, queries = points(500, 32), points(5, 32, seed=2)
        await bench.put(*items(vectors))

        found = [await bench.names(query, limit) for query in queries]

        names = [f"n{i:05}" for i in range(500)]
        assert found == [brute_force(vectors, names, query, limit) for query in queries]

    async def test_equal_vectors_come_in_the_order_of_their_ids(self, bench):
        await bench.make()
        one, other = points(2)
        same = [item(name, one) for name in ("d", "B", "c", "a", "10", "9")]
        await bench.put(item("far", -one), *same, item("other", other))

        found = await bench.find(one, 4)

        assert [hit.item_id for hit in found.hits] == ["10", "9", "B", "a"]
        assert {round(hit.distance, 12) for hit in found.hits} == {0.0}

    async def test_the_length_of_a_vector_does_not_count(self, bench):
        await bench.make()
        one, other = points(2)
        await bench.put(item("long", other * 1e12), item("short", one * 1e-12))

        found = await bench.find(one * 1e9)

        assert [hit.item_id for hit in found.hits] == ["short", "long"]
        assert found.hits[0].distance == pytest.approx(0.0, abs=1e-6)

    async def test_says_how_many_were_compared(self, bench):
        await bench.make()
        await bench.put(*items(points(30)))

        found = await bench.find(points(1)[0], 3)

        assert (len(found.hits), found.scanned) == (3, 30)

    async def test_an_empty_collection_has_nothing(self, bench):
        await bench.make()

        found = await bench.find(points(1)[0])

        assert (list(found.hits), found.scanned) == ([], 0)

    async def test_keeps_to_its_collection(self, bench):
        await bench.make()
        await bench.make(name="twin")
        one, other = points(2)
        await bench.put(item("mine", other))
        await bench.put(item("twin", one), name="twin")

        assert await bench.names(one) == ["mine"]

    async def test_keeps_to_its_epoch(self, bench):
        await bench.make()
        one, other = points(2)
        await bench.put(item("old", one))
        await bench.collections.put(principal(), NAME, Wish("plain", DIMENSION, epoch=2), None)
        await bench.put(item("new", other))

        assert await bench.names(one, epoch=2) == ["new"]
        assert await bench.names(one, epoch=1) == ["old"]

    async def test_only_items_with_all_tags_are_ranked(self, bench):
        await bench.make()
        one = points(1)[0]
        tagged = [{}, {"a": "1"}, {"a": "1", "b": "2"}, {"a": "2", "b": "2"}]
        await bench.put(*(item(f"n{i}", one, tags=tags) for i, tags in enumerate(tagged)))

        assert await bench.names(one, tags={"a": "1"}) == ["n1", "n2"]
        assert await bench.names(one, tags={"a": "1", "b": "2"}) == ["n2"]
        assert await bench.names(one, tags={"a": "2", "c": ""}) == []

    async def test_a_filter_that_leaves_few_of_many_loses_none(self, bench):
        await bench.make()
        vectors = points(600)
        rare = {7, 300, 599}
        given = items(vectors)
        for i in rare:
            given[i] = item(f"n{i:05}", vectors[i], tags={"kind": "rare"})
        await bench.put(*given)

        found = await bench.names(points(1, seed=3)[0], 3, tags={"kind": "rare"})

        assert set(found) == {f"n{i:05}" for i in rare}

    async def test_many_at_once_get_the_same(self, bench):
        await bench.make()
        vectors, query = points(200), points(1, seed=3)[0]
        await bench.put(*items(vectors))

        found = await asyncio.gather(*(bench.names(query) for _ in range(8)))

        assert found == [found[0]] * 8


class TestFollow:
    async def test_sees_what_was_written_again(self, bench):
        await bench.make()
        one, other, query = points(3)
        await bench.put(item("moved", one), item("stays", other))
        await bench.names(query)

        await bench.put(item("moved", query))

        found = await bench.find(query, 1)
        assert (found.hits[0].item_id, round(found.hits[0].distance, 12)) == ("moved", 0.0)
        assert (found.hits[0].seq, found.scanned) == (3, 2)

    async def test_a_deleted_one_is_absent_at_once(self, bench):
        await bench.make()
        one, other = points(2)
        await bench.put(item("gone", one), item("stays", other))
        await bench.names(one)

        await bench.remove("gone")

        found = await bench.find(one)
        assert ([hit.item_id for hit in found.hits], found.scanned) == (["stays"], 1)

    async def test_one_that_comes_back_is_found_once(self, bench):
        await bench.make()
        one = points(1)[0]
        await bench.put(item("back", one))
        await bench.remove("back")
        await bench.put(item("back", one))

        assert await bench.names(one) == ["back"]

    async def test_goes_on_over_many_pages(self, bench):
        await bench.make()
        vectors, query = points(2 * FOLLOW_ROWS + 1), points(1, seed=3)[0]
        await bench.put(*items(vectors))

        found = await bench.find(query, 5)

        names = [f"n{i:05}" for i in range(len(vectors))]
        assert [hit.item_id for hit in found.hits] == brute_force(vectors, names, query, 5)
        assert found.scanned == len(vectors)

    async def test_tombstones_that_were_never_seen_leave_nothing_behind(self, bench):
        await bench.make()
        one, other = points(2)
        await bench.put(item("gone", one), item("stays", other))
        await bench.names(one)
        await bench.remove("gone")
        async with bench.db.begin() as session:
            await session.execute(delete(VectorRow).where(VectorRow.is_deleted))

        found = await bench.find(one)

        assert ([hit.item_id for hit in found.hits], found.scanned) == (["stays"], 1)


class TestForget:
    async def test_leaves_nothing_and_a_search_brings_it_back(self, bench):
        row = await bench.make()
        one = points(1)[0]
        await bench.put(item("a", one))
        await bench.names(one)

        await bench.index.forget(row.id)

        assert await bench.names(one) == ["a"]

    async def test_nothing_is_fine(self, bench):
        row = await bench.make()

        await bench.index.forget(row.id)


class TestTidy:
    async def test_removes_what_belongs_to_no_collection(self, embedded):
        await embedded.make()
        await embedded.put(item("a", points(1)[0]))
        await embedded.names(points(1)[0])
        folder = await embedded.shelf()
        async with embedded.db.begin() as session:
            await session.execute(delete(CollectionRow))

        await embedded.index.tidy()

        assert not folder.exists()

    async def test_keeps_what_does(self, embedded):
        await embedded.make()
        await embedded.put(item("a", points(1)[0]))
        await embedded.names(points(1)[0])

        await embedded.index.tidy()

        assert (await embedded.shelf()).exists()

    async def test_of_nothing_is_fine(self, bench):
        await bench.index.tidy()

    async def test_removes_rows_of_deleted_collections(self, served):
        await served.make()
        await served.put(item("a", points(1)[0]))
        await served.names(points(1)[0])
        async with served.db.begin() as session:
            await session.execute(update(CollectionRow).values(is_deleted=True))

        await served.index.tidy()

        assert await rows(served.db) == 0


class TestFiles:
    async def test_are_their_owners_alone(self, embedded):
        await embedded.make()
        await embedded.put(item("a", points(1)[0]))
        await embedded.names(points(1)[0])

        folder = await embedded.shelf()
        modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}

        assert modes == {0o600}
        assert [one.stat().st_mode & 0o777 for one in (folder, folder.parent)] == [0o700, 0o700]

    async def test_are_taken_up_by_the_next_process(self, embedded):
        await embedded.make()
        vectors, query = points(100), points(1, seed=3)[0]
        await embedded.put(*items(vectors))
        await embedded.names(query)
        await embedded.remove("n00000")
        await embedded.put(*items(vectors[:50] * 2))
        before = await embedded.find(query)
        content = files(await embedded.shelf())

        await embedded.reopen()

        assert await embedded.find(query) == before
        assert files(await embedded.shelf()) == content

    @pytest.mark.parametrize("suffix", ["rows", "vectors"])
    @pytest.mark.parametrize("at", [0.0, 0.3, 0.77])
    async def test_that_are_damaged_are_made_again(self, embedded, suffix, at):
        await embedded.make()
        vectors, query = points(FIRST_ROWS), points(1, seed=3)[0]
        await embedded.put(*items(vectors))
        before = await embedded.find(query, FIRST_ROWS)
        path = next((await embedded.shelf()).glob(f"*.{suffix}"))
        content = bytearray(path.read_bytes())
        content[int(at * len(content))] ^= 0x10
        path.write_bytes(content)

        await embedded.reopen()

        assert await embedded.find(query, FIRST_ROWS) == before

    @pytest.mark.parametrize("suffix", ["rows", "vectors", "json"])
    @pytest.mark.parametrize("left", [0.0, 0.4, None])
    async def test_that_are_truncated_or_gone_are_made_again(self, embedded, suffix, left):
        await embedded.make()
        vectors, query = points(FIRST_ROWS), points(1, seed=3)[0]
        await embedded.put(*items(vectors))
        before = await embedded.find(query, FIRST_ROWS)
        path = next((await embedded.shelf()).glob(f"*.{suffix}"))
        content = path.read_bytes()
        if left is None:
            path.unlink()
        else:
            path.write_bytes(content[: int(left * len(content))])

        await embedded.reopen()

        assert await embedded.find(query, FIRST_ROWS) == before

    async def test_of_another_collection_are_not_read(self, embedded):
        await embedded.make()
        await embedded.make(name="other")
        one, other = points(2)
        await embedded.put(item("mine", one))
        await embedded.put(item("theirs", other), name="other")
        await embedded.names(one)
        await embedded.names(one, name="other")
        theirs = await embedded.collections.find(ANNA, "other")
        folder = await embedded.shelf()
        for path in (folder.parent / str(theirs.id)).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())

        await embedded.reopen()

        assert await embedded.names(one) == ["mine"]

    async def test_that_are_ahead_of_the_table_are_made_again(self, embedded):
        await embedded.make()
        one, other = points(2)
        await embedded.put(item("a", one), item("b", other))
        await embedded.names(one)
        async with embedded.db.begin() as session:
            # As after an older copy of the database was put back.
            await session.execute(delete(VectorRow).where(VectorRow.item_id == "b"))
            await session.execute(update(CollectionRow).values(seq=1, vector_count=1))

        found = await embedded.find(one)

        assert ([hit.item_id for hit in found.hits], found.scanned) == (["a"], 1)

    async def test_that_a_crash_left_behind_are_removed(self, embedded):
        await embedded.make()
        await embedded.put(item("a", points(1)[0]))
        await embedded.names(points(1)[0])
        folder = await embedded.shelf()
        (folder / "9.rows").write_bytes(b"half of a copy")

        await embedded.reopen()
        await embedded.names(points(1)[0])

        assert "9.rows" not in files(folder)

    async def test_lose_the_dead_when_they_are_many(self, embedded):
        await embedded.make()
        vectors, query = points(DEAD_ROWS + 200), points(1, seed=3)[0]
        given = items(vectors)
        await embedded.put(*given)
        await embedded.names(query)
        size = sum(files(await embedded.shelf()).values())

        await embedded.remove(*(one.item_id for one in given[100:]))
        found = await embedded.find(query, 200)

        assert found.scanned == 100
        assert sum(files(await embedded.shelf()).values()) < size / 4
        await embedded.reopen()
        assert await embedded.find(query, 200) == found

    async def test_that_find_no_room_are_507_and_made_later(self, embedded):
        await embedded.make()
        query = points(1)[0]
        await embedded.put(item("a", query))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(IndexFull):
                await embedded.names(query)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert await embedded.names(query) == ["a"]

    async def test_of_many_collections_are_not_all_open(self, embedded, monkeypatch):
        monkeypatch.setattr("app.modules.storage.adapters.blocks.OPEN_LIMIT", 2)
        query = points(1)[0]
        names = [f"c{i}" for i in range(5)]
        for name in names:
            await embedded.make(name=name)
            await embedded.put(item(f"of {name}".replace(" ", "-"), query), name=name)

        found = [await embedded.names(query, name=name) for name in names * 2]

        assert found == [[f"of-{name}"] for name in names * 2]


class TestHnsw:
    async def test_finds_the_nearest(self, served):
        await served.make()
        vectors, query = points(300), points(1, seed=3)[0]
        await served.put(*items(vectors))

        found = await served.names(query, 5)

        names = [f"n{i:05}" for i in range(300)]
        assert found == brute_force(vectors, names, query, 5)
        assert await indexes(served.db) == ["ix_storage_vector_index_hnsw_8"]

    async def test_a_filter_loses_none(self, served):
        await served.make()
        vectors, query = points(400), points(1, seed=3)[0]
        given = [item(f"n{i:05}", v, tags={"p": str(i % 40)}) for i, v in enumerate(vectors)]
        await served.put(*given)

        found = await served.names(query, 10, tags={"p": "7"})

        assert set(found) == {f"n{i:05}" for i in range(7, 400, 40)}

    async def test_too_many_dimensions_are_scanned(self, served):
        await served.make(2001)
        vectors = points(20, 2001)
        await served.put(*items(vectors))

        found = await served.names(vectors[4], 1)

        assert found == ["n00004"]
        assert await indexes(served.db) == []

    async def test_a_database_user_who_may_not_install_it_is_told(self, served, postgres_url):
        await served.make()
        async with served.db.begin() as session:
            await session.execute(text("DROP ROLE IF EXISTS tenant"))
            await session.execute(text("CREATE ROLE tenant LOGIN"))
            await session.execute(text("GRANT ALL ON SCHEMA public TO tenant"))
            await session.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO tenant"))
        url = HouseSettings(database_url=Secret(postgres_url)).sqlalchemy_url
        poor = Database(url.replace("postgres:@", "tenant:@"), JobBook())
        bench = Bench(poor, PgVectorIndex(poor), served.folder)
        await bench.put(item("a", points(1)[0]))

        with pytest.raises(VectorsNotBuilt, match="CREATE EXTENSION vector"):
            await bench.names(points(1)[0])

        await poor.close()
        assert await served.names(points(1)[0]) == ["a"]


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


async def rows(db: Database) -> int:
    async with db.read() as session:
        return int(await session.scalar(text("SELECT count(*) FROM storage_vector_index")))


async def indexes(db: Database) -> list[str]:
    named = "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'ix_storage_vector_index_hnsw%'"
    async with db.read() as session:
        return list(await session.scalars(text(named)))
