"""Reading records over HTTP: whole, in part, at a revision, or not again."""

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


class TestGet:
    @pytest.mark.parametrize("body", [BODY, LARGE])
    async def test_gives_the_bytes_and_says_what_they_are(self, desk, body):
        record_id = uuid4()
        put = await desk.put(record_id, body, CREATE | {"x-key-id": "k1"})

        answer = await desk.get(record_id)

        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["etag"] == put.headers["etag"]
        assert answer.headers["x-seq"] == put.headers["x-seq"]
        assert answer.headers["x-table"] == "notes"
        assert answer.headers["x-key-id"] == "k1"
        assert answer.headers["x-checksum"] == sha256(body)
        assert answer.headers["content-digest"] == content_digest(body)
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-length"] == str(len(body))
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["last-modified"].endswith(" GMT")

    @pytest.mark.parametrize("body", [BODY, LARGE])
    @pytest.mark.parametrize(
        ("wanted", "start", "end"),
        [("bytes=0-9", 0, 10), ("bytes=1000-", 1000, None), ("bytes=-7", -7, None)],
    )
    async def test_gives_a_part(self, desk, body, wanted, start, end):
        record_id, _ = await desk.made(body)

        answer = await desk.get(record_id, range=wanted)

        part = body[start:end]
        first = start % len(body)
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"] == (
            f"bytes {first}-{first + len(part) - 1}/{len(body)}"
        )
        assert answer.headers["content-length"] == str(len(part))
        # RFC 9530: it would be the part's, and only the whole's is known.
        assert "content-digest" not in answer.headers

    async def test_of_a_part_behind_the_end_says_where_that_is(self, desk):
        record_id, _ = await desk.made(BODY)

        answer = await desk.get(record_id, range=f"bytes={len(BODY)}-")

        assert problem(answer) == (416, "no-such-range")
        assert answer.headers["content-range"] == f"bytes */{len(BODY)}"

    @pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "lines=1-2", "bytes=2-1"])
    async def test_gives_the_whole_where_no_part_is_understood(self, desk, wanted):
        record_id, _ = await desk.made(BODY)

        answer = await desk.get(record_id, range=wanted)

        assert (answer.status_code, answer.content) == (200, BODY)

    async def test_gives_a_part_of_the_revision_that_is_meant(self, desk):
        record_id, etag = await desk.made(BODY)

        answer = await desk.get(record_id, range="bytes=0-9", if_range=etag)

        assert (answer.status_code, answer.content) == (206, BODY[:10])

    async def test_gives_the_whole_where_another_revision_is_meant(self, desk):
        record_id, _ = await desk.made(BODY)

        answer = await desk.get(record_id, range="bytes=0-9", if_range='"1-00000000"')

        assert (answer.status_code, answer.content) == (200, BODY)

    async def test_gives_nothing_to_who_has_it(self, desk):
        record_id, etag = await desk.made(BODY)

        answer = await desk.get(record_id, if_none_match=etag)

        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag

    async def test_gives_it_to_who_has_another_revision(self, desk):
        record_id, _ = await desk.made(BODY)

        answer = await desk.get(record_id, if_none_match='"1-00000000"')

        assert (answer.status_code, answer.content) == (200, BODY)

    @pytest.mark.parametrize("body", [BODY, LARGE])
    async def test_gives_a_document_to_who_asks_for_json(self, desk, body):
        record_id, etag = await desk.made(body)

        answer = await desk.get(record_id, accept="application/json")

        assert answer.status_code == 200
        assert answer.json()["blob"] == sealed(body)["blob"]
        assert answer.json()["etag"] == etag

    async def test_gives_no_document_of_more_than_a_mebibyte(self, desk):
        record_id, _ = await desk.made(b"x" * (2**20 + 1))

        answer = await desk.get(record_id, accept="application/json")

        assert problem(answer) == (413, "document-too-large")

    @pytest.mark.parametrize("first", [BODY, LARGE])
    async def test_gives_an_earlier_revision(self, desk, first):
        record_id, etag = await desk.made(first)
        await desk.put(record_id, b"second", {"if-match": etag})
        version = etag.strip('"')

        by_etag = await desk.get(record_id, f"?version={version}")
        by_number = await desk.get(record_id, "?rev=1")

        assert by_etag.content == by_number.content == first
        assert by_etag.headers["etag"] == by_number.headers["etag"] == etag

    @pytest.mark.parametrize("query", ["?rev=2", "?version=1-00000000"])
    async def test_gives_no_revision_that_never_was(self, desk, query):
        record_id, _ = await desk.made(BODY)

        assert problem(await desk.get(record_id, query)) == (404, "no-such-revision")

    @pytest.mark.parametrize(
        "query", ["?version=1", '?version="1-00000000"', "?version=1-00000000&rev=1"]
    )
    async def test_refuses_a_version_that_is_none(self, desk, query):
        record_id, _ = await desk.made(BODY)

        assert problem(await desk.get(record_id, query)) == (400, "version-malformed")

    @pytest.mark.parametrize("query", ["?rev=0", f"?rev={10**18 + 1}", "?rev=x"])
    async def test_refuses_a_number_that_is_none(self, desk, query):
        record_id, _ = await desk.made(BODY)

        assert (await desk.get(record_id, query)).status_code == 400

    async def test_of_what_is_not_there_is_404(self, desk):
        assert problem(await desk.get(uuid4())) == (404, "no-such-record")


class TestHead:
    async def test_answers_as_get_without_the_bytes(self, desk):
        record_id, _ = await desk.made(BODY)
        get = await desk.get(record_id)

        head = await desk.ask("HEAD", f"/records/{record_id}", {"range": "bytes=0-1"})

        ours = {"x-request-id"}
        assert (head.status_code, head.content) == (200, b"")
        assert {k: v for k, v in head.headers.items() if k not in ours} == {
            k: v for k, v in get.headers.items() if k not in ours
        }
