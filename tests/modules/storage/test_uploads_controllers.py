"""Upload sessions over HTTP."""

import asyncio
from uuid import UUID, uuid4

import pytest

from tests.modules.storage.desks import content_digest, problem, sha256
from tests.modules.storage.shipments import (
    BODY,
    PART_BYTES,
    UPLOADS,
    Sums,
    cut,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GIB = 2**30
PARTS = cut(BODY)
OTHER = PARTS[0][::-1]


def record(**more):
    """An order for a record, where the test says nothing else."""
    return {
        "target": "record",
        "id": str(uuid4()),
        "table": "notes",
        "size_bytes": len(BODY),
        "part_bytes": PART_BYTES,
        **more,
    }


async def begun_record(sender, **more):
    order = record(**more)
    answer = await sender.ask("POST", UPLOADS, json=order)
    assert answer.status_code == 201, answer.text
    return order["id"], answer.json()["id"]


async def sent_record(sender, **more):
    record_id, upload_id = await begun_record(sender, **more)
    await sender.send(upload_id)
    return record_id, upload_id


class TestCreate:
    async def test_answers_an_open_session(self, yard):
        answer = await yard.owner.begin()

        told = answer.json()
        assert answer.status_code == 201
        assert UUID(told.pop("id"))
        assert told.pop("expires_at") > 1_700_000_000_000
        assert told == {
            "state": "open",
            "target": "backup",
            "part_bytes": PART_BYTES,
            "part_count": 3,
            "size_bytes": len(BODY),
            "parts": [],
        }

    async def test_reserves_the_room(self, yard):
        await yard.owner.begin()
        await begun_record(yard.owner, size_bytes=10, if_none_match="*")

        assert await yard.sums(yard.owner) == Sums(records_reserved=10, backups_reserved=len(BODY))

    async def test_chooses_the_size_of_parts_where_nobody_asks(self, yard):
        answer = await yard.owner.begin(size_bytes=GIB, part_bytes=None)

        assert (answer.json()["part_bytes"], answer.json()["part_count"]) == (8 * 2**20, 128)

    async def test_a_tier_without_storage_has_none(self, yard):
        member = await yard.member("anna", "free")

        answers = [await member.begin(), await member.ask("POST", UPLOADS, json=record())]

        assert {problem(answer) for answer in answers} == {(403, "tier-required")}

    async def test_what_does_not_fit_is_refused_with_the_numbers(self, yard):
        member = await yard.member("anna")
        await member.begun(size_bytes=4 * GIB, part_bytes=GIB)

        answer = await member.begin(version=2, size_bytes=2 * GIB, part_bytes=GIB)

        told = answer.json()
        assert problem(answer) == (507, "quota-exceeded")
        numbers = [told[f"{name}_bytes"] for name in ("used", "reserved", "quota", "needed")]
        assert numbers == [0, 4 * GIB, 5 * GIB, 2 * GIB]

    async def test_what_is_larger_than_any_body_may_be_is_refused(self, yard):
        answer = await yard.owner.begin(size_bytes=5 * GIB + 1, part_bytes=GIB)

        assert problem(answer) == (413, "object-too-large")

    async def test_too_many_parts_are_refused(self, yard):
        answer = await yard.owner.begin(size_bytes=PART_BYTES * 10_000 + 1)

        assert problem(answer) == (400, "parts-too-many")

    async def test_a_stale_version_is_refused_before_any_byte(self, yard):
        await yard.owner.back_up(4)

        answer = await yard.owner.begin(version=4)

        assert problem(answer) == (409, "backup-version-stale")

    async def test_a_stale_precondition_is_refused_before_any_byte(self, yard):
        record_id, etag = await yard.desk.made()

        answer = await yard.owner.ask("POST", UPLOADS, json=record(id=record_id, if_none_match="*"))

        assert problem(answer) == (412, "precondition-failed")
        assert answer.json()["etag"] == etag

    async def test_a_retired_key_is_refused_before_any_byte(self, yard):
        await yard.desk.ask("DELETE", "/keys/old")

        answer = await yard.owner.ask("POST", UPLOADS, json=record(key_id="old"))

        assert problem(answer) == (409, "key-retired")

    @pytest.mark.parametrize(
        "order",
        [
            {"target": "album"},
            {"size_bytes": 0},
            {"size_bytes": -1},
            {"part_bytes": 1},
            {"part_bytes": 2 * GIB},
            {"version": -1},
            {"version": 2**63},
            {"version": "one"},
            {"chunk_count": 0},
            {"colour": "red"},
        ],
    )
    async def test_an_order_that_makes_no_sense_is_refused(self, yard, order):
        answer = await yard.owner.begin(**order)

        assert answer.status_code == 400

    @pytest.mark.parametrize(
        ("order", "code"),
        [
            ({"checksum": "abc"}, "digest-malformed"),
            ({"table": "no table"}, "name-malformed"),
            ({"key_id": "no key"}, "name-malformed"),
            ({"if_match": "no etag"}, "condition-malformed"),
            ({"if_match": "*", "if_none_match": "*"}, "condition-malformed"),
        ],
    )
    async def test_a_member_that_is_malformed_is_named(self, yard, order, code):
        answer = await yard.owner.ask("POST", UPLOADS, json=record(**order))

        assert problem(answer) == (400, code)

    async def test_of_twenty_at_once_exactly_those_that_fit_succeed(self, yard):
        member = await yard.member("anna")
        size = GIB // 2

        answers = await asyncio.gather(
            *(
                member.begin(version=number, size_bytes=size, part_bytes=size)
                for number in range(1, 21)
            )
        )

        assert sorted(answer.status_code for answer in answers) == [201] * 10 + [507] * 10
        assert await yard.sums(member) == Sums(backups_reserved=5 * GIB)


class TestPutPart:
    async def test_answers_what_has_come(self, yard):
        upload_id = await yard.owner.begun()

        answer = await yard.owner.send_part(upload_id, 3, PARTS[2])

        assert answer.status_code == 200
        assert answer.json() == {
            "number": 3,
            "size_bytes": len(PARTS[2]),
            "checksum": sha256(PARTS[2]),
        }

    async def test_the_same_again_is_answered_alike(self, yard):
        upload_id = await yard.owner.begun()

        answers = [await yard.owner.send_part(upload_id, 1, PARTS[0]) for _ in range(2)]

        assert answers[0].json() == answers[1].json()
        assert await yard.owner.numbers(upload_id) == [1]

    async def test_another_one_of_the_number_replaces(self, yard):
        upload_id = await yard.owner.begun()
        await yard.owner.send_part(upload_id, 1, PARTS[0])

        await yard.owner.send_part(upload_id, 1, OTHER)

        [part] = (await yard.owner.look(upload_id)).json()["parts"]
        assert part["checksum"] == sha256(OTHER)
        assert await yard.part_states() == ["doomed", "kept"]

    @pytest.mark.parametrize(
        "header",
        [{"x-checksum": sha256(OTHER)}, {"content-digest": content_digest(OTHER)}],
        ids=["hex", "base64"],
    )
    async def test_a_wrong_digest_leaves_the_part_to_be_sent_again(self, yard, header):
        upload_id = await yard.owner.begun()

        wrong = await yard.owner.send_part(upload_id, 1, PARTS[0], **header)
        numbers = await yard.owner.numbers(upload_id)
        again = await yard.owner.send_part(upload_id, 1, OTHER, **header)

        assert problem(wrong) == (400, "digest-mismatch")
        assert numbers == []
        assert again.status_code == 200

    async def test_a_wrong_digest_leaves_what_was_there_of_the_number(self, yard):
        upload_id = await yard.owner.begun()
        await yard.owner.send_part(upload_id, 1, PARTS[0])

        await yard.owner.send_part(upload_id, 1, OTHER, **{"x-checksum": sha256(PARTS[0])})

        [part] = (await yard.owner.look(upload_id)).json()["parts"]
        assert part["checksum"] == sha256(PARTS[0])

    @pytest.mark.parametrize(
        ("number", "size"), [(1, PART_BYTES - 1), (3, PART_BYTES), (3, 0), (4, 1), (0, PART_BYTES)]
    )
    async def test_another_size_or_number_is_refused(self, yard, number, size):
        upload_id = await yard.owner.begun()

        answer = await yard.owner.send_part(upload_id, number, BODY[:size])

        assert problem(answer) == (400, "part-malformed")

    async def test_needs_its_length(self, yard):
        upload_id = await yard.owner.begun()

        async def chunked():
            yield PARTS[0]

        path = f"{UPLOADS}/{upload_id}/parts/1"
        answer = await yard.owner.ask("PUT", path, content=chunked())

        assert problem(answer) == (411, "length-required")


class TestRead:
    async def test_lists_the_parts_that_are_there(self, yard):
        upload_id = await yard.owner.begun()
        for number in (3, 1):
            await yard.owner.send_part(upload_id, number, PARTS[number - 1])

        told = (await yard.owner.look(upload_id)).json()

        assert told["state"] == "open"
        assert told["parts"] == [
            {"number": number, "size_bytes": len(part), "checksum": sha256(part)}
            for number, part in ((1, PARTS[0]), (3, PARTS[2]))
        ]

    async def test_tells_that_it_is_committed(self, yard):
        upload_id = await yard.owner.sent()
        await yard.owner.complete(upload_id)

        assert (await yard.owner.look(upload_id)).json()["state"] == "committed"


class TestComplete:
    async def test_shows_a_backup(self, yard):
        upload_id = await yard.owner.sent(version=7, timestamp=9, chunk_count=4)

        answer = await yard.owner.complete(upload_id, checksum=sha256(BODY))

        told = answer.json()
        assert answer.status_code == 201
        assert answer.headers["etag"] == f'"7-{sha256(BODY)[:8]}"'
        assert (told["version"], told["timestamp"], told["chunk_count"]) == (7, 9, 4)
        assert (await yard.owner.latest()).content == BODY
        assert await yard.sums(yard.owner) == Sums(backups=len(BODY))

    async def test_shows_a_record(self, yard):
        record_id, upload_id = await sent_record(yard.owner, if_none_match="*", key_id="k")

        answer = await yard.owner.complete(upload_id)

        told, found = answer.json(), await yard.desk.get(record_id)
        assert answer.status_code == 201
        assert (told["id"], told["table"], told["key_id"]) == (record_id, "notes", "k")
        assert (told["size_bytes"], told["checksum"]) == (len(BODY), sha256(BODY))
        assert answer.headers["x-seq"] == str(told["seq"])
        assert answer.headers["etag"] == told["etag"] == found.headers["etag"]
        assert found.content == BODY
        assert await yard.sums(yard.owner) == Sums(records=len(BODY))

    async def test_replaces_a_record(self, yard):
        record_id, etag = await yard.desk.made()
        _, upload_id = await sent_record(yard.owner, id=record_id, if_match=etag)

        answer = await yard.owner.complete(upload_id)

        assert answer.status_code == 200
        assert (await yard.desk.get(record_id)).content == BODY

    async def test_again_is_answered_alike(self, yard):
        record_id, upload_id = await sent_record(yard.owner, if_none_match="*")
        first = await yard.owner.complete(upload_id)
        await yard.desk.put(record_id, b"newer", {"if-match": first.headers["etag"]})

        again = await yard.owner.complete(upload_id)

        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
        assert again.headers["etag"] == first.headers["etag"]
        assert (await yard.desk.get(record_id)).content == b"newer"

    async def test_twice_at_once_has_one_result(self, yard):
        _, upload_id = await sent_record(yard.owner, if_none_match="*")

        answers = await asyncio.gather(*(yard.owner.complete(upload_id) for _ in range(4)))

        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
        assert len({answer.text for answer in answers}) == 1
        assert await yard.sums(yard.owner) == Sums(records=len(BODY))

    async def test_needs_no_body(self, yard):
        upload_id = await yard.owner.sent()

        answer = await yard.owner.ask("POST", f"{UPLOADS}/{upload_id}/complete")

        assert answer.status_code == 201

    async def test_needs_all_parts_and_names_those_that_are_missing(self, yard):
        upload_id = await yard.owner.begun()
        await yard.owner.send_part(upload_id, 2, PARTS[1])

        answer = await yard.owner.complete(upload_id)

        assert problem(answer) == (409, "parts-missing")
        assert answer.json()["missing"] == [1, 3]

    @pytest.mark.parametrize("said", ["first", "last"])
    async def test_a_wrong_digest_of_the_whole_leaves_it_open(self, yard, said):
        wrong = {"checksum": sha256(BODY)}
        upload_id = await yard.owner.begun(**(wrong if said == "first" else {}))
        await yard.owner.send(upload_id, OTHER + BODY[PART_BYTES:])
        last = wrong if said == "last" else {}

        refused = await yard.owner.complete(upload_id, **last)
        await yard.owner.send_part(upload_id, 1, PARTS[0])
        taken = await yard.owner.complete(upload_id, **last)

        assert problem(refused) == (400, "digest-mismatch")
        assert taken.status_code == 201
        assert (await yard.owner.latest()).content == BODY

    async def test_a_stale_precondition_leaves_it_open_for_another_one(self, yard):
        record_id, upload_id = await sent_record(yard.owner, if_none_match="*")
        made = await yard.desk.put(record_id, b"faster")

        refused = await yard.owner.complete(upload_id)
        taken = await yard.owner.complete(upload_id, if_match=made.headers["etag"])

        assert problem(refused) == (412, "precondition-failed")
        assert refused.json()["etag"] == made.headers["etag"]
        assert taken.status_code == 200
        assert (await yard.desk.get(record_id)).content == BODY

    async def test_needs_a_precondition_in_the_end(self, yard):
        _, upload_id = await sent_record(yard.owner)

        refused = await yard.owner.complete(upload_id)
        taken = await yard.owner.complete(upload_id, if_none_match="*")

        assert problem(refused) == (428, "precondition-required")
        assert taken.status_code == 201

    async def test_a_version_that_came_faster_leaves_it_open(self, yard):
        upload_id = await yard.owner.sent(version=1)
        await yard.owner.back_up(2, b"faster")

        answer = await yard.owner.complete(upload_id)

        assert problem(answer) == (409, "backup-version-stale")
        assert (await yard.owner.look(upload_id)).json()["state"] == "open"

    async def test_what_is_there_already_is_not_kept_twice(self, yard):
        upload_id = await yard.owner.sent(version=1)
        made = await yard.owner.back_up(1)

        answer = await yard.owner.complete(upload_id)

        assert answer.status_code == 200
        assert answer.json() == made.json()
        assert await yard.sums(yard.owner) == Sums(backups=len(BODY))

    async def test_a_smaller_tier_since_leaves_it_open(self, yard):
        member = await yard.member("anna", "power")
        upload_id = await member.sent(version=2)
        await member.begun(version=3, size_bytes=5 * GIB, part_bytes=GIB)
        await yard.move(member, "pro")

        refused = await member.complete(upload_id)
        await yard.move(member, "power")
        taken = await member.complete(upload_id)

        assert problem(refused) == (507, "quota-exceeded")
        assert taken.status_code == 201

    async def test_takes_no_part_afterwards(self, yard):
        upload_id = await yard.owner.sent()
        await yard.owner.complete(upload_id)

        answer = await yard.owner.send_part(upload_id, 1, OTHER)

        assert problem(answer) == (409, "upload-committed")
        assert (await yard.owner.latest()).content == BODY


class TestAbort:
    async def test_gives_the_room_back(self, yard):
        upload_id = await yard.owner.sent()

        answer = await yard.owner.abort(upload_id)

        assert answer.status_code == 204
        assert await yard.sums(yard.owner) == Sums()

    async def test_ends_it_for_good(self, yard):
        upload_id = await yard.owner.sent()
        await yard.owner.abort(upload_id)

        answers = [
            await yard.owner.look(upload_id),
            await yard.owner.send_part(upload_id, 1, PARTS[0]),
            await yard.owner.complete(upload_id),
            await yard.owner.abort(upload_id),
        ]

        assert {problem(answer) for answer in answers} == {(410, "upload-gone")}

    async def test_comes_too_late_after_the_commit(self, yard):
        upload_id = await yard.owner.sent()
        await yard.owner.complete(upload_id)

        answer = await yard.owner.abort(upload_id)

        assert problem(answer) == (409, "upload-committed")
        assert (await yard.owner.latest()).content == BODY


class TestLink:
    async def test_needs_a_bucket(self, yard):
        upload_id = await yard.owner.begun()

        answer = await yard.owner.ask(
            "POST", f"{UPLOADS}/{upload_id}/parts/1", json={"checksum": sha256(PARTS[0])}
        )

        assert problem(answer) == (501, "links-missing")


class TestIsolation:
    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "", {}),
            ("DELETE", "", {}),
            ("PUT", "/parts/1", {"content": PARTS[0]}),
            ("POST", "/parts/1", {"json": {"checksum": sha256(PARTS[0])}}),
            ("POST", "/complete", {"json": {}}),
        ],
        ids=["read", "abort", "put_part", "link", "complete"],
    )
    async def test_somebody_elses_is_as_unknown_as_none(self, yard, method, path, body):
        upload_id = await yard.owner.begun()
        stranger = await yard.member("anna")

        theirs = await stranger.ask(method, f"{UPLOADS}/{upload_id}{path}", **body)
        unknown = await stranger.ask(method, f"{UPLOADS}/{UUID(int=7)}{path}", **body)

        assert problem(theirs) == problem(unknown) == (404, "no-such-upload")
        assert theirs.json()["detail"] == unknown.json()["detail"]
        assert (await yard.owner.look(upload_id)).json()["state"] == "open"

    async def test_each_record_is_its_senders(self, yard):
        record_id, _ = await yard.desk.made()
        stranger = await yard.member("anna")
        _, upload_id = await sent_record(stranger, id=record_id, if_none_match="*")

        answer = await stranger.complete(upload_id)

        assert answer.status_code == 201
        assert (await yard.desk.get(record_id)).content == b"sealed"
