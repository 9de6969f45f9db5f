"""Lists, deletions, revisions and their restoring over HTTP."""

from uuid import uuid4

import pytest

from tests.modules.storage.desks import (
    NO_SHA256,
    problem,
    sha256,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = bytes(range(256)) * 8
# Larger than what lies in the database.
LARGE = bytes(range(256)) * 100


class TestDelete:
    async def test_leaves_a_tombstone(self, fresh):
        record_id, etag = await fresh.made(BODY)

        answer = await fresh.delete(record_id, etag)

        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["etag"] == f'"2-{NO_SHA256[:8]}"'
        assert answer.headers["x-seq"] == "2"
        assert (await fresh.get(record_id)).status_code == 404
        (change,) = (await fresh.changes())["items"]
        assert (change["is_deleted"], change["seq"], change["size_bytes"]) == (True, 2, 0)

    async def test_needs_a_precondition(self, desk):
        record_id, _ = await desk.made(BODY)

        answer = await desk.ask("DELETE", f"/records/{record_id}")

        assert problem(answer) == (428, "precondition-required")

    async def test_refuses_a_revision_that_is_gone(self, desk):
        record_id, etag = await desk.made(b"first")
        put = await desk.put(record_id, b"second", {"if-match": etag})

        answer = await desk.delete(record_id, etag)

        assert problem(answer) == (412, "precondition-failed")
        assert answer.json()["etag"] == put.headers["etag"]

    async def test_sent_again_is_answered_as_before(self, desk):
        record_id, etag = await desk.made(BODY)
        first = await desk.delete(record_id, etag)

        again = await desk.delete(record_id, etag)

        assert again.status_code == 204
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["x-seq"] == first.headers["x-seq"]

    async def test_of_what_is_deleted_is_404(self, desk):
        record_id, etag = await desk.made(BODY)
        tombstone = (await desk.delete(record_id, etag)).headers["etag"]

        assert problem(await desk.delete(record_id, tombstone)) == (404, "no-such-record")

    async def test_leaves_what_can_be_restored(self, fresh):
        record_id, etag = await fresh.made(BODY)

        await fresh.delete(record_id, etag)

        assert (await fresh.get(record_id, "?rev=1")).content == BODY
        assert (await fresh.usage())["used_bytes"] == len(BODY)

    async def test_for_good_leaves_nothing_of_it(self, fresh):
        record_id, etag = await fresh.made(BODY)

        answer = await fresh.delete(record_id, etag, "?purge=true")

        assert answer.status_code == 204
        assert (await fresh.get(record_id, "?rev=1")).status_code == 404
        assert (await fresh.usage())["used_bytes"] == 0

    async def test_for_good_takes_away_what_a_deletion_has_left(self, fresh):
        record_id, etag = await fresh.made(BODY)
        first = await fresh.delete(record_id, etag)

        answer = await fresh.delete(record_id, first.headers["etag"], "?purge=true")

        assert answer.status_code == 204
        assert answer.headers["x-seq"] == first.headers["x-seq"]
        assert (await fresh.usage())["used_bytes"] == 0


class TestList:
    async def test_has_a_page_by_id_and_asks_for_the_next(self, fresh):
        ids = sorted([(await fresh.made(b"x"))[0] for _ in range(5)])

        first = (await fresh.ask("GET", "/records?limit=3")).json()
        second = (await fresh.ask("GET", f"/records?limit=3&cursor={first['next']}")).json()

        assert [one["id"] for one in first["items"] + second["items"]] == ids
        assert second["next"] is None

    async def test_is_of_one_table_when_one_is_named(self, fresh):
        record_id, _ = await fresh.made(b"x", table="mine")
        await fresh.made(b"x", table="other")

        found = (await fresh.ask("GET", "/records?table=mine")).json()

        assert [one["id"] for one in found["items"]] == [record_id]

    async def test_has_no_deleted_ones(self, fresh):
        record_id, etag = await fresh.made()
        await fresh.delete(record_id, etag)

        assert (await fresh.ask("GET", "/records")).json() == {"items": [], "next": None}

    async def test_by_numbers_is_a_plain_list(self, fresh):
        ids = sorted([(await fresh.made(b"x"))[0] for _ in range(3)])

        answer = await fresh.ask("GET", "/records?table=notes&page=2&limit=2")

        (one,) = answer.json()
        assert one.keys() == {"id", "table", "checksum", "created_at", "updated_at"}
        assert one["id"] == ids[2]

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=501",
            "cursor=x",
            "page=0",
            "page=1000001",
            "limit=x",
            "table=%00",
            "table=",
        ],
    )
    async def test_refuses_a_page_that_is_none(self, fresh, query):
        assert (await fresh.ask("GET", f"/records?{query}")).status_code == 400


class TestVersions:
    async def test_are_newest_first_with_the_current_one(self, desk):
        record_id, etag = await desk.made(b"first")
        put = await desk.put(record_id, b"second", {"if-match": etag})
        await desk.delete(record_id, put.headers["etag"])

        items = (await desk.ask("GET", f"/records/{record_id}/versions")).json()["items"]

        assert [one["rev"] for one in items] == [3, 2, 1]
        assert [one["is_deleted"] for one in items] == [True, False, False]
        assert [one["checksum"] for one in items[1:]] == [sha256(b"second"), sha256(b"first")]
        assert items[2]["etag"] == etag

    async def test_of_what_never_was_is_404(self, desk):
        answer = await desk.ask("GET", f"/records/{uuid4()}/versions")

        assert problem(answer) == (404, "no-such-record")


class TestRestore:
    async def restore(self, desk, record_id, rev, headers):
        return await desk.ask("POST", f"/records/{record_id}/restore", headers, json={"rev": rev})

    @pytest.mark.parametrize("first", [BODY, LARGE])
    async def test_makes_an_earlier_revision_the_newest(self, desk, first):
        record_id, etag = await desk.made(first)
        put = await desk.put(record_id, b"second", {"if-match": etag})

        answer = await self.restore(desk, record_id, 1, {"if-match": put.headers["etag"]})

        assert answer.status_code == 200
        assert answer.headers["etag"] == f'"3-{sha256(first)[:8]}"'
        assert (await desk.get(record_id)).content == first

    async def test_takes_no_room(self, fresh):
        record_id, etag = await fresh.made(BODY)
        put = await fresh.put(record_id, b"second", {"if-match": etag})
        usage = await fresh.usage()

        await self.restore(fresh, record_id, 1, {"if-match": put.headers["etag"]})

        assert await fresh.usage() == usage

    @pytest.mark.parametrize("form", ["if-match", "if-none-match"])
    async def test_brings_back_what_was_deleted(self, desk, form):
        record_id, etag = await desk.made(BODY)
        tombstone = (await desk.delete(record_id, etag)).headers["etag"]
        headers = {form: tombstone if form == "if-match" else "*"}

        answer = await self.restore(desk, record_id, 1, headers)

        assert answer.status_code == 200
        assert (await desk.get(record_id)).content == BODY

    async def test_needs_a_precondition(self, desk):
        record_id, _ = await desk.made(BODY)

        answer = await self.restore(desk, record_id, 1, {})

        assert problem(answer) == (428, "precondition-required")

    async def test_refuses_a_revision_that_is_gone(self, desk):
        record_id, etag = await desk.made(b"first")
        await desk.put(record_id, b"second", {"if-match": etag})

        answer = await self.restore(desk, record_id, 1, {"if-match": etag})

        assert problem(answer) == (412, "precondition-failed")

    async def test_sent_again_is_answered_as_before(self, desk):
        record_id, etag = await desk.made(b"first")
        put = await desk.put(record_id, b"second", {"if-match": etag})
        headers = {"if-match": put.headers["etag"]}
        first = await self.restore(desk, record_id, 1, headers)

        again = await self.restore(desk, record_id, 1, headers)

        assert again.status_code == 200
        assert again.json() == first.json()

    async def test_of_a_deletion_is_404(self, desk):
        record_id, etag = await desk.made(b"first")
        await desk.delete(record_id, etag)
        put = await desk.put(record_id, b"second")

        answer = await self.restore(desk, record_id, 2, {"if-match": put.headers["etag"]})

        assert problem(answer) == (404, "no-such-revision")

    @pytest.mark.parametrize("rev", [0, -1, 10**18 + 1, "1", 1.5, None])
    async def test_refuses_a_number_that_is_none(self, desk, rev):
        record_id, etag = await desk.made(b"first")

        answer = await self.restore(desk, record_id, rev, {"if-match": etag})

        assert problem(answer) == (400, "body-malformed")
