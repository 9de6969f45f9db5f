"""Writing records over HTTP: preconditions, forms and integrity."""

import asyncio
from uuid import uuid4

import pytest

from tests.modules.storage.desks import (
    CREATE,
    content_digest,
    problem,
    sealed,
    sha256,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = bytes(range(256)) * 8
# Larger than what lies in the database.
LARGE = bytes(range(256)) * 100


class TestPut:
    async def test_creates_what_is_not_there(self, fresh):
        record_id = uuid4()

        answer = await fresh.put(record_id, BODY, CREATE | {"x-key-id": "k1"})

        read = answer.json()
        assert answer.status_code == 201
        assert answer.headers["etag"] == read["etag"] == f'"1-{sha256(BODY)[:8]}"'
        assert answer.headers["x-seq"] == "1"
        assert (read["id"], read["table"], read["key_id"]) == (str(record_id), "notes", "k1")
        assert (read["seq"], read["size_bytes"], read["checksum"]) == (1, len(BODY), sha256(BODY))
        assert read["created_at"] == read["updated_at"] > 1_600_000_000_000

    async def test_needs_a_precondition(self, desk):
        answer = await desk.put(uuid4(), BODY, {})

        assert problem(answer) == (428, "precondition-required")

    async def test_does_not_create_over_a_record(self, desk):
        record_id, etag = await desk.made(b"first")

        answer = await desk.put(record_id, b"second")

        assert problem(answer) == (412, "precondition-failed")
        assert answer.json()["etag"] == etag

    async def test_replaces_the_revision_that_was_read(self, desk):
        record_id, etag = await desk.made(b"first")

        answer = await desk.put(record_id, b"second", {"if-match": etag})

        assert answer.status_code == 200
        assert answer.headers["etag"] == f'"2-{sha256(b"second")[:8]}"'
        assert (await desk.get(record_id)).content == b"second"

    async def test_keeps_table_and_key_of_what_it_replaces(self, desk):
        record_id = uuid4()
        made = await desk.put(record_id, b"first", CREATE | {"x-key-id": "k1"}, table="t1")

        answer = await desk.ask(
            "PUT", f"/records/{record_id}", {"if-match": made.headers["etag"]}, content=b"second"
        )

        assert (answer.json()["table"], answer.json()["key_id"]) == ("t1", "k1")

    async def test_of_two_devices_with_one_etag_lets_one_through(self, desk):
        record_id, etag = await desk.made(b"first")

        answers = await asyncio.gather(
            *(desk.put(record_id, body, {"if-match": etag}) for body in (b"one", b"other"))
        )

        winner, loser = sorted(answers, key=lambda answer: answer.status_code)
        assert (winner.status_code, loser.status_code) == (200, 412)
        assert loser.json()["etag"] == winner.headers["etag"]

    @pytest.mark.parametrize("body", [BODY, LARGE])
    async def test_sent_again_is_answered_as_before_and_changes_nothing(self, fresh, body):
        record_id, etag = await fresh.made(b"first")
        first = await fresh.put(record_id, body, {"if-match": etag})
        usage = await fresh.usage()

        again = await fresh.put(record_id, body, {"if-match": etag})

        assert again.status_code == 200
        assert again.json() == first.json()
        assert again.headers["x-seq"] == first.headers["x-seq"]
        assert await fresh.usage() == usage
        assert [one["seq"] for one in (await fresh.changes())["items"]] == [2]

    async def test_creates_anew_what_was_deleted_and_goes_on_counting(self, desk):
        record_id, etag = await desk.made(b"first")
        await desk.delete(record_id, etag)

        answer = await desk.put(record_id, b"second")

        assert answer.status_code == 201
        assert answer.headers["etag"].startswith('"3-')

    async def test_of_something_that_is_not_there_does_not_create_it(self, desk):
        answer = await desk.put(uuid4(), BODY, {"if-match": "*"})

        assert problem(answer) == (412, "precondition-failed")
        assert answer.json()["etag"] == ""

    async def test_of_an_empty_body_is_a_record(self, desk):
        record_id, _ = await desk.made(b"")

        assert (await desk.get(record_id)).content == b""

    async def test_needs_a_table_to_create(self, desk):
        answer = await desk.ask("PUT", f"/records/{uuid4()}", CREATE, content=BODY)

        assert problem(answer) == (400, "table-missing")

    @pytest.mark.parametrize("name", ["x-table", "x-key-id"])
    @pytest.mark.parametrize("value", ["", "a b", "a/b", "x" * 65])
    async def test_refuses_a_name_that_is_none(self, desk, name, value):
        answer = await desk.put(uuid4(), BODY, CREATE | {name: value})

        assert problem(answer) == (400, "name-malformed")

    async def test_needs_to_know_the_size(self, desk):
        async def unknown():
            yield BODY

        answer = await desk.ask("PUT", f"/records/{uuid4()}", CREATE, content=unknown())

        assert problem(answer) == (411, "length-required")

    async def test_takes_the_json_form(self, desk):
        record_id = uuid4()
        body = sealed(BODY, table="notes", key_id="k1")

        answer = await desk.ask("PUT", f"/records/{record_id}", CREATE, json=body)

        assert answer.status_code == 201, answer.text
        assert (await desk.get(record_id)).content == BODY

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{",
            b'{"blob": "not base64!", "checksum": ""}',
            b'{"blob": "", "checksum": "", "extra": 1}',
            b'{"blob": "", "checksum": "", "table": "a b"}',
            b'\xff{"blob": ""}',
            b"[" * 100_000,
        ],
    )
    async def test_refuses_json_that_is_not_its_form(self, desk, body):
        headers = CREATE | {"content-type": "application/json"}

        answer = await desk.ask("PUT", f"/records/{uuid4()}", headers, content=body)

        assert problem(answer) == (400, "body-malformed")

    async def test_reads_no_json_document_that_is_too_large(self, desk):
        headers = CREATE | {"content-type": "application/json"}

        answer = await desk.ask(
            "PUT", f"/records/{uuid4()}", headers, content=b" " * (2 * 2**20 + 1)
        )

        assert problem(answer) == (413, "document-too-large")


class TestIntegrity:
    @pytest.mark.parametrize("body", [BODY, LARGE])
    async def test_bytes_with_their_digests_are_stored(self, desk, body):
        given = {"content-digest": content_digest(body), "x-checksum": sha256(body).upper()}

        answer = await desk.put(uuid4(), body, CREATE | given)

        assert answer.status_code == 201

    @pytest.mark.parametrize("body", [BODY, LARGE])
    @pytest.mark.parametrize(
        "given",
        [
            {"content-digest": content_digest(b"else")},
            {"x-checksum": sha256(b"else")},
            {"x-checksum": sha256(b"else"), "content-digest": content_digest(BODY)},
        ],
    )
    async def test_other_bytes_leave_nothing(self, fresh, body, given):
        record_id = uuid4()

        answer = await fresh.put(record_id, body, CREATE | given)

        assert problem(answer) == (400, "digest-mismatch")
        assert (await fresh.get(record_id)).status_code == 404
        usage = await fresh.usage()
        assert (usage["used_bytes"], usage["reserved_bytes"]) == (0, 0)
        assert (await fresh.changes())["items"] == []

    @pytest.mark.parametrize("given", [{"content-digest": "sha-256=abc"}, {"x-checksum": "abc"}])
    async def test_a_malformed_digest_is_refused(self, desk, given):
        answer = await desk.put(uuid4(), BODY, CREATE | given)

        assert problem(answer) == (400, "digest-malformed")

    @pytest.mark.parametrize("body", [BODY, LARGE])
    @pytest.mark.parametrize("more", [-1, 1])
    async def test_fewer_or_more_bytes_than_announced_leave_nothing(self, fresh, body, more):
        record_id = uuid4()
        announced = CREATE | {"content-length": str(len(body) + more)}

        answer = await fresh.put(record_id, body, announced)

        assert problem(answer) == (400, "body-truncated")
        assert (await fresh.get(record_id)).status_code == 404
        usage = await fresh.usage()
        assert (usage["used_bytes"], usage["reserved_bytes"]) == (0, 0)

    @pytest.mark.parametrize("checksum", [sha256(b"else"), "abc"])
    async def test_json_with_another_checksum_leaves_nothing(self, fresh, checksum):
        body = sealed(BODY, table="notes") | {"checksum": checksum}

        answer = await fresh.ask("POST", "/records", json=body)

        assert answer.status_code == 400
        assert (await fresh.ask("GET", "/records")).json()["items"] == []


class TestCreate:
    async def test_makes_an_id(self, desk):
        answer = await desk.ask("POST", "/records", json=sealed(BODY, table="notes"))

        read = answer.json()
        assert answer.status_code == 201
        assert (await desk.get(read["id"])).content == BODY
        assert read["created_at"] > 0

    async def test_takes_an_id_and_is_safe_to_send_again(self, desk):
        body = sealed(BODY, table="notes", id=str(uuid4()))
        first = await desk.ask("POST", "/records", json=body)

        again = await desk.ask("POST", "/records", json=body)

        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
