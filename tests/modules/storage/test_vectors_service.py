"""Vectors on both databases: sums under concurrency, and what survives the end of a process."""

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select, update

from app.modules.storage.domain.allowances import ALLOWANCES, QuotaExceeded
from app.modules.storage.domain.searches import Search
from app.modules.storage.domain.vectors import EpochMismatch, NoSuchCollection, Wish
from app.modules.storage.models import VectorRow
from app.modules.storage.service.vectors.ledger import CollectionBusy
from tests.house import AUTHORIZED, running_server
from tests.modules.storage.desks import ANNA, BERT, Shelf, fill, principal
from tests.modules.storage.vectors import item, items, on_wire, points, text

SIZE_BYTES = 32 + 8
ROOT = Path(__file__).parents[3]


@pytest.fixture
async def notes(shelf: Shelf) -> Shelf:
    """A plain collection."""
    await shelf.storage.collections.put(principal(), "notes", Wish("plain", 8), None)
    return shelf


async def put(shelf: Shelf, *given, user_id=ANNA) -> int:
    return await shelf.storage.vectors.upsert(principal(user_id), "notes", None, given)


async def found(shelf: Shelf, query, **more) -> list[str]:
    wanted = Search("notes", query.tobytes(), 10, **more)
    return [one.item.item_id for one in (await shelf.storage.vectors.search(ANNA, wanted)).items]


class TestUpsert:
    async def test_of_twenty_at_once_as_many_pass_as_fit(self, notes):
        quota = ALLOWANCES["pro"].record_bytes
        notes.tiers.tier = "pro"
        await fill(notes.db, ANNA, quota - 10 * SIZE_BYTES)
        vectors = points(20)

        outcomes = await asyncio.gather(
            *(put(notes, item(f"n{i}", vectors[i], b"12345678")) for i in range(20)),
            return_exceptions=True,
        )

        assert outcomes.count(1) == 10
        assert sum(isinstance(one, QuotaExceeded) for one in outcomes) == 10
        account = await notes.account()
        assert (account.record_bytes, account.record_reserved_bytes) == (quota, 0)
        (row,) = await notes.storage.collections.all(ANNA)
        assert (row.vector_count, row.size_bytes, row.seq) == (10, 10 * SIZE_BYTES, 10)

    async def test_what_shrinks_passes_at_the_quota(self, notes):
        notes.tiers.tier = "pro"
        vector = points(1)[0]
        await put(notes, item("a", vector, b"12345678"))
        await fill(notes.db, ANNA, ALLOWANCES["pro"].record_bytes)

        await put(notes, item("a", vector, b"1"))

        assert (await notes.account()).record_bytes == ALLOWANCES["pro"].record_bytes - 7

    async def test_numbers_have_no_gap(self, notes):
        vectors = points(30)
        await asyncio.gather(
            *(put(notes, *items(vectors[i : i + 3], f"p{i}-")) for i in range(0, 30, 3))
        )

        async with notes.db.read() as session:
            numbers = select(VectorRow.seq, VectorRow.collection_seq).order_by(VectorRow.seq)
            rows = (await session.execute(numbers)).all()
        assert rows == [(i, i) for i in range(1, 31)]

    async def test_the_first_default_is_made_once(self, shelf):
        upserts = (
            shelf.storage.vectors.upsert(principal(), None, None, [item(f"n{i}")]) for i in range(6)
        )

        assert await asyncio.gather(*upserts) == [1] * 6

        (row,) = await shelf.storage.collections.all(ANNA)
        assert (row.name, row.vector_count) == ("default", 6)

    async def test_brings_back_what_was_deleted_and_counts_on(self, notes):
        one = points(1)[0]
        await put(notes, item("a", one))
        await notes.storage.vectors.remove(ANNA, "notes", ["a"])

        await put(notes, item("a", one))

        collection, row = await notes.storage.vectors.find(ANNA, "notes", "a")
        assert (row.rev, row.seq, collection.vector_count) == (3, 3, 1)
        assert collection.size_bytes == (await notes.account()).record_bytes == row.size_bytes

    async def test_is_refused_when_the_epoch_has_gone_on(self, notes):
        await notes.storage.collections.put(principal(), "notes", Wish("plain", epoch=2), None)

        with pytest.raises(EpochMismatch):
            await notes.storage.vectors.upsert(principal(), "notes", 1, [item("a", points(1)[0])])

    async def test_into_somebody_elses_is_refused(self, notes):
        with pytest.raises(NoSuchCollection):
            await put(notes, item("a", points(1)[0]), user_id=BERT)


class TestSearch:
    async def test_finds_what_is_committed(self, notes):
        vectors = points(20)
        await put(notes, *items(vectors))

        assert (await found(notes, vectors[7]))[0] == "n00007"

    async def test_while_others_write_answers_what_was_ranked(self, notes):
        vectors = points(40)
        await put(notes, *items(vectors[:20]))

        async def write() -> None:
            for i in range(20):
                await put(notes, item(f"n{i:05}", vectors[20 + i]))

        writing = asyncio.create_task(write())
        answers = [await found(notes, vectors[0]) for _ in range(5)]
        await writing

        assert {len(one) for one in answers} == {10}
        assert all(len(set(one)) == 10 for one in answers)

    async def test_gives_up_when_what_is_ranked_is_never_what_is_there(self, notes):
        one = points(1)[0]
        await put(notes, item("a", one))
        await found(notes, one)
        async with notes.db.begin() as session:
            await session.execute(update(VectorRow).values(collection_seq=7))

        with pytest.raises(CollectionBusy):
            await found(notes, one)


@pytest.mark.slow
class TestStart:
    def test_needs_no_numpy(self, tmp_path):
        code = "import sys; sys.modules['numpy'] = None; from pathlib import Path; "
        code += "from app.asgi import Insula; from tests.house import environment; "
        code += f"Insula(environment(Path({str(tmp_path)!r})))"

        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )

        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
class TestCrash:
    async def test_what_was_answered_is_found_after_a_kill(self, tmp_path):
        vectors = points(30)
        body = {"collection": "notes", "vectors": on_wire(*items(vectors))}
        query = {"collection": "notes", "query": text(vectors[3].tobytes()), "top_k": 2}
        data = tmp_path / "data"
        async with running_server(data) as server:
            await _send(server, "PUT", "collections/notes", {"mode": "plain", "dimension": 8})
            await _send(server, "POST", "vectors/upsert", body | {"vectors": body["vectors"][:9]})
            before = await _send(server, "POST", "vectors/search", query)
            await _send(server, "POST", "vectors/upsert", body)
            server.kill()

        async with running_server(data) as server:
            after = await _send(server, "POST", "vectors/search", query)

        assert before["scanned"] == 9
        assert (after["scanned"], after["items"][0]["id"]) == (30, "n00003")


async def _send(server, method: str, path: str, body) -> dict:
    async with httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as client:
        answer = await client.request(method, f"/api/v1/storage/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()
