"""Vectors over HTTP: what is put, found and deleted, and what is refused."""

import json
import struct
from base64 import b64decode
from uuid import uuid4

import numpy as np
import pytest

from app.modules.storage.domain.vectors import SEALED_LIMIT_BYTES
from app.modules.storage.schemas.vectors import FOUND
from tests.modules.storage.desks import Desk, problem, sha256
from tests.modules.storage.vectors import (
    DIMENSION,
    Library,
    brute_force,
    item,
    items,
    on_wire,
    points,
    text,
    unpacked,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAN = struct.pack("<8f", *[float("nan")] * 8)
INF = struct.pack("<8f", *[float("inf")] * 8)
ZERO = bytes(32)


@pytest.fixture
def library(fresh: Desk) -> Library:
    return Library(fresh)


class TestUpsert:
    async def test_says_how_many_are_there(self, library):
        await library.make()

        answer = await library.upsert(*items(points(3)))

        assert (answer.status_code, answer.json()) == (200, {"upserted": 3})

    async def test_of_the_same_is_no_new_revision(self, library):
        await library.make()
        given = item("a", points(1)[0], tags={"k": "v"})
        await library.upsert(given)
        before = (await library.get("a")).json()

        answer = await library.upsert(given)

        assert answer.json() == {"upserted": 1}
        assert (await library.get("a")).json() == before

    @pytest.mark.parametrize("change", ["vector", "blob", "tags"])
    async def test_of_something_else_is_one(self, library, change):
        await library.make()
        one, other = points(2)
        await library.upsert(item("a", one, b"blob", {"k": "v"}))
        before = (await library.get("a")).json()

        await library.upsert(
            item(
                "a",
                other if change == "vector" else one,
                b"other" if change == "blob" else b"blob",
                {"k": "w"} if change == "tags" else {"k": "v"},
            )
        )

        after = (await library.get("a")).json()
        assert after["seq"] == before["seq"] + 1
        assert after["etag"].startswith('"2-')

    async def test_stores_nothing_when_one_checksum_is_wrong(self, library):
        await library.make()
        good, bad = on_wire(*items(points(2)))
        bad["checksum"] = sha256(b"another blob")

        answer = await library.desk.ask(
            "POST", "/vectors/upsert", json={"collection": "notes", "vectors": [good, bad]}
        )

        assert (*problem(answer), answer.json()["item"]) == (400, "digest-mismatch", bad["id"])
        assert (await library.get(good["id"])).status_code == 404
        assert (await library.desk.usage())["used_bytes"] == 0

    @pytest.mark.parametrize("vector", [NAN, INF, ZERO, ZERO[:-4], b"", b"xyz"])
    async def test_of_what_is_no_vector_is_400(self, library, vector):
        await library.make()

        answer = await library.upsert(item("a", vector))

        assert problem(answer) == (400, "vector-invalid")

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("id", "a/b"),
            ("id", ""),
            ("vector", "not base64"),
            ("blob", None),
            ("checksum", "abc"),
            ("tags", {"k": "v" * 65}),
            ("tags", {str(i): "" for i in range(17)}),
            ("tags", {"k": 1}),
            ("more", 1),
        ],
    )
    async def test_of_a_malformed_item_is_400(self, library, path, value):
        await library.make()
        wire = on_wire(item("a", points(1)[0]))[0] | {path: value}

        answer = await library.desk.ask(
            "POST", "/vectors/upsert", json={"collection": "notes", "vectors": [wire]}
        )

        assert problem(answer)[0] == 400

    @pytest.mark.parametrize("count", [0, 1001])
    async def test_of_none_or_too_many_is_400(self, library, count):
        await library.make("box", "sealed", dimension=None)

        answer = await library.upsert(
            *(item(f"n{i}", blob=b"") for i in range(count)), collection="box"
        )

        assert problem(answer)[0] == 400

    async def test_of_a_blob_above_the_limit_is_413(self, library):
        answer = await library.upsert(
            item("a", blob=b"x" * (SEALED_LIMIT_BYTES + 1)), collection=None
        )

        assert problem(answer) == (413, "blob-too-large")

    async def test_of_a_body_above_the_limit_is_413(self, library):
        big = [item(f"n{i}", blob=b"x" * SEALED_LIMIT_BYTES) for i in range(100)]

        answer = await library.upsert(*big, collection=None)

        assert problem(answer) == (413, "document-too-large")

    @pytest.mark.parametrize("epoch", [1, 3])
    async def test_of_another_epoch_is_409(self, library, epoch):
        await library.make(epoch=2)

        answer = await library.upsert(item("a", points(1)[0]), epoch=epoch)

        assert problem(answer) == (409, "epoch-mismatch")

    async def test_into_an_unknown_collection_is_404(self, library):
        answer = await library.upsert(item("a", points(1)[0]))

        assert problem(answer) == (404, "no-such-collection")

    async def test_needs_a_tier_with_storage(self, library):
        anna = Library(await library.desk.member(uuid4().hex, None))

        answer = await anna.upsert(item("a"), collection=None)

        assert problem(answer) == (403, "tier-required")

    async def test_counts_against_the_quota_of_records(self, library):
        anna = Library(await library.desk.member(uuid4().hex, "pro"))
        await anna.make()
        quota = (await anna.desk.usage())["quota_bytes"]
        await anna.desk.fill(quota - 40)
        fits, does_not = item("a", points(1)[0], b"12345678"), item("b", points(1)[0], b"1")

        answers = [await anna.upsert(fits), await anna.upsert(does_not)]

        assert answers[0].status_code == 200
        assert problem(answers[1]) == (507, "quota-exceeded")
        told = answers[1].json()
        assert (told["used_bytes"], told["needed_bytes"]) == (quota, 33)
        assert (await anna.get("b")).status_code == 404


class TestSearch:
    async def test_of_plain_vectors_is_exact(self, library):
        await library.make()
        vectors, query = points(50), points(1, seed=2)[0]
        await library.upsert(*items(vectors))

        answer = await library.search(query, top_k=5)

        body, names = answer.json(), [f"n{i:05}" for i in range(50)]
        assert [one["id"] for one in body["items"]] == brute_force(vectors, names, query, 5)
        assert (body["scanned"], body["dimension"]) == (50, DIMENSION)
        assert body["privacy"] == {"mode": "plain", "beta": None, "epoch": 1}
        assert "distance" in body["items"][0]
        assert "distance_enc" not in body["items"][0]

    async def test_of_noised_vectors_says_so(self, library):
        await library.make(mode="dcpe")
        await library.upsert(item("a", points(1)[0], b"sealed", {"k": "v"}))

        body = (await library.search(points(1)[0])).json()

        (found,) = body["items"]
        assert found.pop("distance_enc") == pytest.approx(0.0, abs=1e-12)
        etag = f'"1-{sha256(b"sealed")[:8]}"'
        assert found == {"id": "a", "sealed": text(b"sealed"), "etag": etag, "tags": {"k": "v"}}
        assert body["privacy"] == {"mode": "dcpe", "beta": 2.0, "epoch": 1}

    async def test_answers_the_larger_of_top_k_and_overfetch(self, library):
        await library.make(mode="dcpe")
        await library.upsert(*items(points(20)))
        query = points(1)[0]

        assert len(await library.found(query, top_k=3)) == 3
        assert len(await library.found(query, top_k=3, overfetch=12)) == 12
        assert len(await library.found(query, top_k=3, overfetch=2)) == 3

    @pytest.mark.parametrize("mode", ["plain", "dcpe"])
    async def test_answers_the_same_in_bytes(self, library, mode):
        await library.make(mode=mode)
        given = items(points(20))
        await library.upsert(*given)
        query = points(1, seed=2)[0]
        expected = (await library.search(query)).json()

        answer = await library.search(query, accept=f"{FOUND}, application/json;q=0.5")

        head, *fields = unpacked(answer.content)
        sealed = [b64decode(one.pop("sealed")) for one in expected["items"]]
        assert answer.headers["content-type"] == FOUND
        assert json.loads(head) == expected
        assert [one.decode() for one in fields[::2]] == [one["id"] for one in expected["items"]]
        assert fields[1::2] == sealed

    async def test_answers_nothing_found_in_bytes(self, library):
        await library.make()

        answer = await library.search(points(1)[0], accept=FOUND)

        (head,) = unpacked(answer.content)
        assert json.loads(head)["items"] == []

    @pytest.mark.parametrize(
        "accept", ["", "*/*", "application/json", f"application/json, {FOUND}", f"x;q=inf,{FOUND}"]
    )
    async def test_answers_json_to_everybody_else(self, library, accept):
        await library.make()

        answer = await library.search(points(1)[0], accept=accept)

        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["items"] == []

    async def test_tells_of_a_problem_as_ever(self, library):
        await library.make(mode="sealed")

        answer = await library.search(points(1)[0], accept=FOUND)

        assert problem(answer) == (409, "client-index-collection")

    async def test_of_a_sealed_collection_is_409(self, library):
        await library.make("box", "sealed")

        answer = await library.search(points(1)[0], "box")

        assert problem(answer) == (409, "client-index-collection")

    @pytest.mark.parametrize("query", [NAN, INF, ZERO, ZERO[:-4], ZERO + ZERO, b""])
    async def test_for_what_is_no_vector_is_400(self, library, query):
        await library.make()

        answer = await library.search(np.frombuffer(query, "u1"))

        assert problem(answer) == (400, "vector-invalid")

    @pytest.mark.parametrize(
        "more",
        [
            {"overfetch": 1001},
            {"overfetch": -1},
            {"top_k": 0},
            {"top_k": 1001},
            {"epoch": -1},
            {"tags": {"": "v"}},
            {"query_blob": "eA=="},
        ],
    )
    async def test_outside_the_limits_is_400(self, library, more):
        await library.make()

        assert problem(await library.search(points(1)[0], **more))[0] == 400

    async def test_for_nothing_is_400(self, library):
        answer = await library.desk.ask("POST", "/vectors/search", json={"top_k": 3})

        assert problem(answer) == (400, "search-invalid")

    async def test_ranks_the_items_of_one_epoch(self, library):
        await library.make(mode="dcpe")
        one, other = points(2)
        await library.upsert(item("old", one), item("moves", one))
        await library.make(mode="dcpe", epoch=2, beta=1.0)
        await library.upsert(item("moves", other))

        assert await library.found(one) == ["moves"]
        assert await library.found(one, epoch=2) == ["moves"]
        assert await library.found(one, epoch=1) == ["old"]

    async def test_of_a_wrong_epoch_is_409(self, library):
        await library.make(mode="dcpe", epoch=3)
        await library.upsert(item("a", points(1)[0]))

        answers = [await library.search(points(1)[0], epoch=epoch) for epoch in (2, 4)]

        assert [problem(answer) for answer in answers] == [(409, "epoch-mismatch")] * 2
        assert answers[0].json()["epoch"] == 3

    async def test_filters_by_tags(self, library):
        await library.make()
        one = points(1)[0]
        await library.upsert(item("a", one, tags={"k": "v"}), item("b", one, tags={"k": "w"}))

        assert await library.found(one, tags={"k": "w"}) == ["b"]

    async def test_of_somebody_else_answers_like_an_unknown_one(self, library):
        anna = Library(await library.desk.member(uuid4().hex))
        await anna.make()
        await anna.upsert(item("a", points(1)[0]))

        theirs = await library.search(points(1)[0])
        unknown = await library.search(points(1)[0], "other")

        assert problem(theirs) == problem(unknown) == (404, "no-such-collection")

    async def test_never_finds_the_twin_of_somebody_else(self, library):
        anna = Library(await library.desk.member(uuid4().hex))
        one, other = points(2)
        await anna.make()
        await library.make()
        await anna.upsert(item("twin", one), item("shared-id", one))
        await library.upsert(item("shared-id", other))

        body = (await library.search(one)).json()

        (found,) = body["items"]
        assert (found["id"], body["scanned"]) == ("shared-id", 1)
        assert found["distance"] > 0.01

    async def test_is_open_to_a_key_that_may_read(self, library):
        await library.make()
        made = await library.desk.ask(
            "POST", "/api/v1/auth/api-keys", json={"name": "reader", "scopes": ["read"]}
        )
        key = {"authorization": f"Bearer {made.json()['key']}"}
        reader = Library(Desk(library.desk.house, library.desk.client, key))

        assert (await reader.search(points(1)[0])).status_code == 200
        assert problem(await reader.upsert(item("a", points(1)[0])))[0] == 403

    async def test_answers_no_more_than_it_may(self, library):
        await library.make()
        big = items(points(300))
        for start in range(0, 300, 75):
            part = [item(one.item_id, one.vector, b"x" * 60_000) for one in big[start : start + 75]]
            await library.upsert(*part)

        answer = await library.search(points(1)[0], top_k=300)

        assert problem(answer) == (413, "answer-too-large")
        assert len(await library.found(points(1)[0], top_k=100)) == 100


class TestSeedForm:
    async def test_makes_a_sealed_default(self, library):
        await library.upsert(item("a"), item("b"), collection=None)

        made = (await library.read("default")).json()
        assert (made["mode"], made["vectors"]) == ("sealed", 2)

    async def test_finds_the_same_bytes_first_and_then_the_newest(self, library):
        for name, blob in (("a", b"x"), ("b", b"y"), ("c", b"x"), ("d", b"z")):
            await library.upsert(item(name, blob=blob), collection=None)

        body = (await self._search(library, b"x", top_k=10)).json()

        found = [(one["id"], one["score"], one["blob"]) for one in body["results"]]
        expected = [("c", 1.0, b"x"), ("a", 1.0, b"x"), ("d", 0.0, b"z"), ("b", 0.0, b"y")]
        assert found == [(name, score, text(blob)) for name, score, blob in expected]
        assert body["privacy"] == {"mode": "sealed"}

    @pytest.mark.parametrize(("top_k", "ids"), [(1, ["c"]), (2, ["c", "a"]), (3, ["c", "a", "d"])])
    async def test_answers_as_many_as_asked_for(self, library, top_k, ids):
        for name, blob in (("a", b"x"), ("b", b"y"), ("c", b"x"), ("d", b"z")):
            await library.upsert(item(name, blob=blob), collection=None)

        body = (await self._search(library, b"x", top_k=top_k)).json()

        assert [one["id"] for one in body["results"]] == ids

    async def test_finds_nothing_before_the_first_item(self, library):
        body = (await self._search(library, b"x")).json()

        assert body["results"] == []

    async def test_does_not_find_what_is_deleted(self, library):
        await library.upsert(item("a", blob=b"x"), item("b", blob=b"x"), collection=None)
        await library.delete("a", collection=None)

        body = (await self._search(library, b"x")).json()

        assert [one["id"] for one in body["results"]] == ["b"]

    async def test_says_when_default_is_no_sealed_one(self, library):
        await library.make("default", "plain")
        await library.upsert(item("a", points(1)[0], b"x"), collection=None)

        body = (await self._search(library, b"x")).json()

        assert (body["results"][0]["score"], body["privacy"]) == (1.0, {"mode": "plain"})

    async def test_does_not_go_with_a_collection(self, library):
        answer = await self._search(library, b"x", collection="default")

        assert problem(answer) == (400, "search-invalid")

    async def test_deletes_by_ids_alone(self, library):
        await library.upsert(item("a"), item("b"), collection=None)

        answer = await library.delete("a", "b", "c", collection=None)

        assert (answer.status_code, answer.json()) == (200, {"deleted": 2})

    async def test_deletes_nothing_before_the_first_item(self, library):
        answer = await library.delete("a", collection=None)

        assert answer.json() == {"deleted": 0}

    async def _search(self, library: Library, blob: bytes, **more):
        body = {"query_blob": text(blob), **more}
        return await library.desk.ask("POST", "/vectors/search", json=body)


class TestRead:
    async def test_is_what_was_put(self, library):
        await library.make()
        vector = points(1)[0]
        await library.upsert(item("a", vector, b"sealed", {"k": "v"}))

        found = (await library.get("a")).json()

        assert (found["sealed"], found["checksum"]) == (text(b"sealed"), sha256(b"sealed"))
        assert (found["vector"], found["tags"]) == (text(vector.tobytes()), {"k": "v"})
        assert (found["epoch"], found["privacy"]["mode"]) == (1, "plain")

    async def test_of_a_sealed_one_has_no_vector(self, library):
        await library.upsert(item("a"), collection=None)

        assert "vector" not in (await library.get("a", "default")).json()

    async def test_of_an_unknown_one_is_404(self, library):
        await library.make()

        assert problem(await library.get("a")) == (404, "no-such-vector")

    async def test_of_somebody_else_is_404(self, library):
        anna = Library(await library.desk.member(uuid4().hex))
        await anna.make()
        await anna.upsert(item("a", points(1)[0]))

        assert problem(await library.get("a"))[0] == 404


class TestDelete:
    async def test_is_absent_from_search_at_once_and_404(self, library):
        await library.make()
        one, other = points(2)
        await library.upsert(item("gone", one), item("stays", other))
        await library.found(one)

        answer = await library.delete("gone", "never-there")

        assert (answer.status_code, answer.json()) == (200, {"deleted": 1})
        assert await library.found(one) == ["stays"]
        assert problem(await library.get("gone")) == (404, "no-such-vector")

    async def test_leaves_a_tombstone_in_the_feed(self, library):
        await library.make()
        await library.upsert(*items(points(2)))
        before = await library.desk.changes(kinds="vector")

        await library.delete("n00000")

        (told,) = (await library.desk.changes(before["cursor"], kinds="vector"))["items"]
        assert (told["kind"], told["id"], told["table"]) == ("vector", "n00000", "notes")
        assert (told["is_deleted"], told["etag"][:3], told["seq"]) == (True, '"2-', 3)

    async def test_gives_the_room_back(self, library):
        await library.make()
        await library.upsert(item("a", points(1)[0], b"four"))

        await library.delete("a")

        assert (await library.desk.usage())["used_bytes"] == 0
        assert (await library.read()).json()["size_bytes"] == 0

    async def test_again_deletes_nothing(self, library):
        await library.make()
        await library.upsert(item("a", points(1)[0]))
        await library.delete("a")

        assert (await library.delete("a")).json() == {"deleted": 0}

    async def test_of_somebody_else_is_404_and_deletes_nothing(self, library):
        anna = Library(await library.desk.member(uuid4().hex))
        await anna.make()
        await anna.upsert(item("a", points(1)[0]))

        assert problem(await library.delete("a"))[0] == 404
        assert (await anna.get("a")).status_code == 200

    async def test_is_open_above_the_quota(self, library):
        anna = Library(await library.desk.member(uuid4().hex, "power"))
        await anna.make()
        await anna.upsert(item("a", points(1)[0]))
        await anna.desk.move("free")

        assert (await anna.found(points(1)[0])) == ["a"]
        assert (await anna.delete("a")).json() == {"deleted": 1}
