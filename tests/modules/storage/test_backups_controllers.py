"""Backups over HTTP: S15."""

import asyncio
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from uuid import UUID

import pytest

from tests.modules.storage.desks import problem, sha256
from tests.modules.storage.shipments import BACKUP, BODY, Sums

pytestmark = pytest.mark.asyncio(loop_scope="module")

GIB = 2**30
OTHER = BODY[::-1]
SMALL = b"a small backup"


class TestPut:
    @pytest.mark.parametrize("data", [SMALL, BODY], ids=["small", "large"])
    async def test_answers_what_it_keeps(self, yard, data):
        answer = await yard.owner.back_up(3, data, timestamp=77, **{"x-backup-chunks": "4"})

        told = answer.json()
        assert answer.status_code == 201
        assert answer.headers["etag"] == f'"3-{sha256(data)[:8]}"'
        assert UUID(told.pop("id"))
        assert told == {
            "version": 3,
            "timestamp": 77,
            "checksum": sha256(data),
            "chunk_count": 4,
            "size_bytes": len(data),
        }

    @pytest.mark.parametrize("data", [SMALL, BODY], ids=["small", "large"])
    async def test_the_same_again_is_answered_alike_and_kept_once(self, yard, data):
        first = await yard.owner.back_up(1, data)

        again = await yard.owner.back_up(1, data)

        assert (first.status_code, again.status_code) == (201, 200)
        assert (again.json(), again.headers["etag"]) == (first.json(), first.headers["etag"])
        assert await yard.sums(yard.owner) == Sums(backups=len(data))

    async def test_the_same_again_needs_no_room(self, yard):
        member = await yard.member("anna")
        await member.back_up(1)
        await member.begun(version=2, size_bytes=5 * GIB - len(BODY), part_bytes=GIB)

        again = await member.back_up(1)

        assert again.status_code == 200

    @pytest.mark.parametrize("version", [1, 2])
    async def test_a_version_that_is_not_above_the_highest_is_refused(self, yard, version):
        await yard.owner.back_up(2)

        answer = await yard.owner.back_up(version, OTHER)

        assert problem(answer) == (409, "backup-version-stale")
        assert answer.json()["version"] == 2
        assert await yard.sums(yard.owner) == Sums(backups=len(BODY))

    async def test_the_same_bytes_with_another_timestamp_are_no_repetition(self, yard):
        await yard.owner.back_up(2, timestamp=1)

        answer = await yard.owner.back_up(2, timestamp=2)

        assert answer.status_code == 409

    async def test_the_version_of_a_deleted_one_stays_taken(self, yard):
        made = await yard.owner.back_up(2)
        await yard.owner.ask("DELETE", f"{BACKUP}/{made.json()['id']}")

        answer = await yard.owner.back_up(2)

        assert answer.status_code == 409

    async def test_of_two_that_race_for_a_version_one_is_kept(self, yard):
        answers = await asyncio.gather(yard.owner.back_up(1, BODY), yard.owner.back_up(1, OTHER))

        assert sorted(answer.status_code for answer in answers) == [201, 409]
        assert await yard.sums(yard.owner) == Sums(backups=len(BODY))

    async def test_a_wrong_checksum_leaves_nothing(self, yard):
        answer = await yard.owner.back_up(1, **{"x-backup-checksum": sha256(b"another")})

        assert problem(answer) == (400, "digest-mismatch")
        assert await yard.sums(yard.owner) == Sums()
        assert (await yard.owner.latest()).status_code == 404

    async def test_a_checksum_that_is_none_is_refused(self, yard):
        answer = await yard.owner.back_up(1, **{"x-backup-checksum": "abc"})

        assert problem(answer) == (400, "digest-malformed")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("x-backup-version", "one"),
            ("x-backup-version", "-1"),
            ("x-backup-version", str(2**63)),
            ("x-backup-timestamp", "now"),
            ("x-backup-chunks", "0"),
        ],
    )
    async def test_a_header_that_is_no_such_number_is_refused(self, yard, name, value):
        answer = await yard.owner.back_up(1, **{name: value})

        assert answer.status_code == 400

    async def test_the_free_tier_has_none(self, yard):
        member = await yard.member("anna", "free")

        answer = await member.back_up(1)

        assert problem(answer) == (403, "tier-required")

    async def test_what_does_not_fit_is_refused_with_the_numbers(self, yard):
        member = await yard.member("anna")
        await member.back_up(1)
        await member.begun(version=2, size_bytes=5 * GIB - len(BODY), part_bytes=GIB)

        answer = await member.back_up(3, SMALL)

        told = answer.json()
        assert problem(answer) == (507, "quota-exceeded")
        assert told["used_bytes"] == len(BODY)
        assert told["reserved_bytes"] == 5 * GIB - len(BODY)
        assert told["quota_bytes"] == 5 * GIB
        assert told["needed_bytes"] == len(SMALL)


class TestLatest:
    async def test_is_the_highest_version_with_its_bytes(self, yard):
        await yard.owner.back_up(2)
        await yard.owner.back_up(10, OTHER, timestamp=5)

        answer = await yard.owner.latest()

        assert answer.status_code == 200
        assert answer.content == OTHER
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["etag"] == f'"10-{sha256(OTHER)[:8]}"'
        assert answer.headers["x-backup-version"] == "10"
        assert answer.headers["x-backup-timestamp"] == "5"
        assert answer.headers["x-backup-checksum"] == sha256(OTHER)

    async def test_is_the_next_lower_one_once_it_is_deleted(self, yard):
        await yard.owner.back_up(1)
        made = await yard.owner.back_up(2, OTHER)

        await yard.owner.ask("DELETE", f"{BACKUP}/{made.json()['id']}")

        assert (await yard.owner.latest()).content == BODY

    async def test_is_missing_where_there_is_none(self, yard):
        answer = await yard.owner.latest()

        assert problem(answer) == (404, "no-such-backup")

    async def test_a_range_is_a_part_of_it(self, yard):
        await yard.owner.back_up(1)

        answer = await yard.owner.latest(range="bytes=70000-70009")

        assert answer.status_code == 206
        assert answer.content == BODY[70000:70010]
        assert answer.headers["content-range"] == f"bytes 70000-70009/{len(BODY)}"

    async def test_a_range_beyond_the_end_is_refused(self, yard):
        await yard.owner.back_up(1)

        answer = await yard.owner.latest(range=f"bytes={len(BODY)}-")

        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(BODY)}"

    async def test_a_range_of_another_version_is_the_whole(self, yard):
        await yard.owner.back_up(1)

        answer = await yard.owner.latest(**{"range": "bytes=0-9", "if-range": '"0-00000000"'})

        assert (answer.status_code, answer.content) == (200, BODY)

    async def test_who_has_it_by_etag_gets_nothing(self, yard):
        made = await yard.owner.back_up(1)

        answer = await yard.owner.latest(**{"if-none-match": made.headers["etag"]})

        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == made.headers["etag"]

    async def test_who_has_it_by_date_gets_nothing(self, yard):
        await yard.owner.back_up(1)
        modified = (await yard.owner.latest()).headers["last-modified"]

        answer = await yard.owner.latest(**{"if-modified-since": modified})

        assert (answer.status_code, answer.content) == (304, b"")

    async def test_who_has_an_earlier_one_by_date_gets_it(self, yard):
        await yard.owner.back_up(1)
        modified = (await yard.owner.latest()).headers["last-modified"]
        before = parsedate_to_datetime(modified) - timedelta(seconds=1)

        answer = await yard.owner.latest(
            **{"if-modified-since": format_datetime(before, usegmt=True)}
        )

        assert answer.status_code == 200

    async def test_an_etag_counts_more_than_a_date(self, yard):
        await yard.owner.back_up(1)
        modified = (await yard.owner.latest()).headers["last-modified"]
        said = {"if-modified-since": modified, "if-none-match": '"0-00000000"'}

        answer = await yard.owner.latest(**said)

        assert answer.status_code == 200


class TestHistory:
    async def test_lists_the_highest_version_first_and_no_bytes(self, yard):
        made = [(await yard.owner.back_up(version)).json() for version in (1, 2, 5)]

        answer = await yard.owner.ask("GET", f"{BACKUP}/history")

        assert answer.json() == made[::-1]

    async def test_goes_on_below_a_version(self, yard):
        for version in (1, 2, 5):
            await yard.owner.back_up(version, SMALL)

        answer = await yard.owner.ask("GET", f"{BACKUP}/history?before=5&limit=1")

        assert [one["version"] for one in answer.json()] == [2]

    async def test_is_empty_where_there_is_none(self, yard):
        answer = await yard.owner.ask("GET", f"{BACKUP}/history")

        assert (answer.status_code, answer.json()) == (200, [])


class TestRead:
    async def test_gives_an_older_one(self, yard):
        made = await yard.owner.back_up(1)
        await yard.owner.back_up(2, OTHER)

        answer = await yard.owner.ask("GET", f"{BACKUP}/{made.json()['id']}")

        assert answer.content == BODY
        assert answer.headers["x-backup-version"] == "1"


class TestRemove:
    async def test_gives_the_room_back_and_cannot_be_repeated(self, yard):
        made = await yard.owner.back_up(1)
        path = f"{BACKUP}/{made.json()['id']}"

        answers = [await yard.owner.ask("DELETE", path) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [204, 404]
        assert (await yard.owner.ask("GET", path)).status_code == 404
        assert await yard.sums(yard.owner) == Sums()

    async def test_is_allowed_in_the_free_tier(self, yard):
        member = await yard.member("anna")
        made = await member.back_up(1)
        await yard.move(member, "free")

        read = await member.latest()
        gone = await member.ask("DELETE", f"{BACKUP}/{made.json()['id']}")

        assert (read.status_code, gone.status_code) == (200, 204)


class TestIsolation:
    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    async def test_somebody_elses_is_as_unknown_as_none(self, yard, method):
        made = await yard.owner.back_up(1)
        stranger = await yard.member("anna")

        theirs = await stranger.ask(method, f"{BACKUP}/{made.json()['id']}")
        unknown = await stranger.ask(method, f"{BACKUP}/{UUID(int=7)}")

        assert (theirs.status_code, unknown.status_code) == (404, 404)
        assert _body(theirs) == _body(unknown)
        assert (await yard.owner.latest()).content == BODY

    async def test_each_has_versions_and_a_history_of_their_own(self, yard):
        await yard.owner.back_up(5)
        stranger = await yard.member("anna")

        made = await stranger.back_up(1, SMALL)

        history = await stranger.ask("GET", f"{BACKUP}/history")
        assert made.status_code == 201
        assert [one["version"] for one in history.json()] == [1]


def _body(answer):
    return {name: value for name, value in answer.json().items() if name != "request_id"}
