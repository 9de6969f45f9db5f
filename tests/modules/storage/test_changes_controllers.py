"""The feed over HTTP: its shape, its cursors and its limits."""

import pytest

from tests.modules.storage.desks import problem, sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestChanges:
    async def test_say_what_there_is(self, fresh):
        record_id, etag = await fresh.made(b"sealed")

        page = await fresh.changes()

        (change,) = page["items"]
        assert change.pop("updated_at") > 1_600_000_000_000
        assert change == {
            "seq": 1,
            "kind": "record",
            "id": record_id,
            "table": "notes",
            "etag": etag,
            "key_id": "",
            "size_bytes": 6,
            "checksum": sha256(b"sealed"),
            "is_deleted": False,
        }
        assert page["has_more"] is False

    async def test_go_on_from_a_cursor(self, fresh):
        ids = [(await fresh.made(bytes([number])))[0] for number in range(3)]

        first = await fresh.changes(limit=2)
        second = await fresh.changes(first["cursor"], kinds="record")
        third = await fresh.changes(second["cursor"])

        assert [one["id"] for one in first["items"] + second["items"]] == ids
        assert (first["has_more"], second["has_more"], third["items"]) == (True, False, [])

    async def test_of_somebody_elses_cursor_are_refused(self, desk, fresh):
        await fresh.made()
        theirs = (await desk.changes())["cursor"]

        answer = await fresh.ask("GET", "/changes", params={"cursor": theirs})

        assert problem(answer) == (400, "cursor-invalid")

    @pytest.mark.parametrize("cursor", ["", "x", "A" * 100, "A" * 5000, "\u00e9"])
    async def test_of_no_cursor_of_ours_are_refused(self, desk, cursor):
        answer = await desk.ask("GET", "/changes", params={"cursor": cursor})

        assert problem(answer) == (400, "cursor-invalid")

    async def test_of_a_cursor_of_other_kinds_are_refused(self, fresh):
        cursor = (await fresh.changes(kinds="record,vector"))["cursor"]
        await fresh.made()
        cursor = (await fresh.changes(cursor, kinds="vector,record"))["cursor"]

        answer = await fresh.ask("GET", "/changes", params={"cursor": cursor})

        assert problem(answer) == (400, "cursor-invalid")

    @pytest.mark.parametrize("kinds", ["", "backup", "record,", "record,vector,record,vector"])
    async def test_of_an_unknown_kind_are_refused(self, desk, kinds):
        answer = await desk.ask("GET", "/changes", params={"kinds": kinds})

        assert problem(answer) == (400, "kind-unknown")

    @pytest.mark.parametrize("limit", ["0", "501", "x"])
    async def test_of_a_page_that_is_none_are_refused(self, desk, limit):
        answer = await desk.ask("GET", "/changes", params={"limit": limit})

        assert answer.status_code == 400
