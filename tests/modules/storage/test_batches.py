"""Batches: all of it or nothing, and every reason."""

from uuid import uuid4

import pytest

from app.modules.storage.domain.batches import Contents, Operation
from tests.modules.storage.desks import ANNA, audit, principal, problem, sealed, sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGE = b"large" * 4000


def put(record_id=None, body: bytes = b"x", **more):
    return {"op": "put", "id": str(record_id or uuid4()), "table": "notes", **sealed(body), **more}


async def apply(desk, *operations):
    return await desk.ask("POST", "/batch", json={"operations": operations})


class TestBatch:
    async def test_does_all_of_it(self, fresh):
        changed, first = await fresh.made(b"first")
        gone, second = await fresh.made(b"second")
        checked, third = await fresh.made(b"third")
        fresh_id = uuid4()

        answer = await apply(
            fresh,
            put(fresh_id, b"new", if_none_match="*"),
            put(changed, LARGE, if_match=first),
            {"op": "delete", "id": gone, "if_match": second},
            {"op": "check", "id": checked, "if_match": third},
            {"op": "check", "id": str(uuid4()), "if_none_match": "*"},
        )

        results = answer.json()["results"]
        assert answer.status_code == 200
        assert [one["status"] for one in results] == [201, 200, 204, 200, 200]
        assert [one["seq"] for one in results] == [4, 5, 6, 3, None]
        assert results[3]["etag"] == third
        assert results[4]["etag"] is None
        assert (await fresh.get(fresh_id)).content == b"new"
        assert (await fresh.get(changed)).content == LARGE
        assert (await fresh.get(gone)).status_code == 404

    async def test_does_nothing_when_one_is_refused_and_tells_every_reason(self, fresh):
        there, etag = await fresh.made(b"first")
        other, _ = await fresh.made(b"second")
        unknown, fresh_id = uuid4(), uuid4()
        usage = await fresh.usage()

        answer = await apply(
            fresh,
            put(fresh_id, LARGE, if_none_match="*"),
            put(there, if_match='"1-00000000"'),
            put(body=b"y", if_none_match="*", checksum=sha256(b"else")),
            put(),
            {"op": "delete", "id": str(unknown), "if_match": "*"},
            {"op": "check", "id": other, "if_none_match": "*"},
        )

        errors = answer.json()["errors"]
        assert problem(answer) == (409, "batch-refused")
        assert [(one["index"], one["status"], one["type"]) for one in errors] == [
            (1, 412, "urn:problem:precondition-failed"),
            (2, 400, "urn:problem:digest-mismatch"),
            (3, 428, "urn:problem:precondition-required"),
            (4, 404, "urn:problem:no-such-record"),
            (5, 412, "urn:problem:precondition-failed"),
        ]

        assert (errors[0]["id"], errors[0]["etag"]) == (there, etag)
        assert (await fresh.get(fresh_id)).status_code == 404
        assert await fresh.usage() == usage
        assert [one["seq"] for one in (await fresh.changes())["items"]] == [1, 2]

    async def test_sent_again_is_answered_as_before(self, fresh):
        operations = [put(body=b"one", if_none_match="*"), put(body=LARGE, if_none_match="*")]
        first = await apply(fresh, *operations)
        usage = await fresh.usage()

        again = await apply(fresh, *operations)

        def told(answer):
            return [(one["etag"], one["seq"]) for one in answer.json()["results"]]

        assert told(again) == told(first)
        assert [one["status"] for one in again.json()["results"]] == [200, 200]
        assert await fresh.usage() == usage

    @pytest.mark.parametrize(
        "operations",
        [
            [],
            [put() for _ in range(101)],
            [{"op": "move", "id": str(uuid4())}],
            [{"id": str(uuid4())}],
            [{"op": "check", "id": "x", "if_match": "*"}],
            [{"op": "check", "id": str(uuid4()), "blob": ""}],
            [put(table="a b", if_none_match="*")],
            [put(uuid4(), if_none_match="*") | {"id": str(ANNA)} for _ in range(2)],
        ],
    )
    async def test_that_is_none_is_refused(self, desk, operations):
        answer = await desk.ask("POST", "/batch", json={"operations": operations})

        assert problem(answer) == (400, "body-malformed")

    async def test_that_is_too_large_is_not_read(self, desk):
        answer = await desk.ask("POST", "/batch", content=b" " * (8 * 2**20 + 1))

        assert problem(answer) == (413, "document-too-large")

    async def test_of_deletions_alone_needs_no_tier(self, desk):
        anna = await desk.member("anna", "pro")
        record_id, etag = await anna.made()
        await anna.move("free")

        answer = await apply(anna, {"op": "delete", "id": record_id, "if_match": etag})

        assert answer.status_code == 200

    async def test_that_does_not_fit_as_a_whole_does_nothing(self, desk):
        anna = await desk.member("anna", "pro")
        quota = (await anna.usage())["quota_bytes"]
        await anna.fill(quota - 15)

        answer = await apply(
            anna, *(put(body=b"%10d" % number, if_none_match="*") for number in range(2))
        )

        (error,) = answer.json()["errors"]
        assert (error["index"], error["status"]) == (1, 507)
        assert (await anna.usage())["used_bytes"] == quota - 15


@pytest.mark.asyncio(loop_scope="function")
class TestApply:
    """Without HTTP, on both databases."""

    async def test_of_a_refused_one_leaves_no_room_taken(self, shelf):
        await shelf.put(uuid4(), b"first")
        contents = Contents(LARGE, sha256(LARGE), "notes")
        operations = [
            Operation("put", uuid4(), None, "*", contents),
            Operation("check", uuid4(), "*"),
        ]

        outcome = await shelf.storage.batches.apply(principal(), operations)

        assert [one.index for one in outcome.failed] == [1]
        assert (await shelf.account()).seq == 1
        await audit(shelf.db)

    async def test_of_many_takes_one_number_each(self, shelf):
        contents = Contents(b"x", sha256(b"x"), "notes")
        operations = [Operation("put", uuid4(), None, "*", contents) for _ in range(100)]

        outcome = await shelf.storage.batches.apply(principal(), operations)

        assert [one.seq for one in outcome.done] == list(range(1, 101))
        await audit(shelf.db)
