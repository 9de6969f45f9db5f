"""Revisions, bodies and sums of records, also when many write at once, on both databases."""

import asyncio
from uuid import uuid4

import pytest

from app.kernel.errors import AppError
from app.modules.storage.domain.allowances import ALLOWANCES, QuotaExceeded
from app.modules.storage.domain.conditions import Condition, NoSuchRecord, PreconditionFailed
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.records import NoSuchRevision, TableMissing
from app.modules.storage.service.records import Incoming, RecordWrite
from tests.modules.storage.desks import ANNA, BERT, Shelf, audit, fill, principal

SMALL = b"small"
# Larger than what lies in the database.
LARGE = b"large" * 4000
ANYTHING = Condition(etag="*")


async def changed(shelf: Shelf, times: int, body: bytes = SMALL):
    """A record that has been written so often, each time with other bytes of one size."""
    record_id = uuid4()
    written = await shelf.put(record_id, body)
    for number in range(1, times):
        written = await shelf.put(record_id, _body(body, number), Condition(etag=written.etag))
    return record_id, written


def _body(body: bytes, number: int) -> bytes:
    return body[:-1] + bytes([number])


class TestRevisions:
    @pytest.mark.parametrize("body", [SMALL, LARGE])
    async def test_as_many_as_the_tier_has_are_kept_and_no_bytes_of_others(self, shelf, body):
        shelf.tiers.tier = "pro"

        record_id, _ = await changed(shelf, 14, body)

        versions = await shelf.storage.records.versions(ANNA, record_id)
        assert [one.rev for one in versions] == list(range(14, 3, -1))
        assert (await shelf.account()).record_bytes == 11 * len(body)
        assert await shelf.body(record_id, 4) == _body(body, 3)
        with pytest.raises(NoSuchRevision):
            await shelf.body(record_id, 3)
        await audit(shelf.db)

    async def test_a_restored_body_outlives_the_revision_it_came_from(self, shelf):
        shelf.tiers.tier = "pro"
        record_id, written = await changed(shelf, 2)
        written = await shelf.restore(record_id, 1, written.etag)
        for _ in range(12):
            written = await shelf.restore(record_id, written.rev, written.etag)

        assert await shelf.body(record_id) == SMALL
        assert (await shelf.account()).record_bytes == len(SMALL)
        await audit(shelf.db)

    async def test_a_restored_body_goes_with_the_last_revision_that_has_it(self, shelf):
        record_id, written = await changed(shelf, 2, LARGE)
        written = await shelf.restore(record_id, 1, written.etag)

        await shelf.delete(record_id, written.etag, is_final=True)

        assert (await shelf.account()).record_bytes == 0
        await audit(shelf.db)

    async def test_the_oldest_one_is_restored_once_when_asked_twice(self, shelf):
        shelf.tiers.tier = "pro"
        record_id, written = await changed(shelf, 11)

        first = await shelf.restore(record_id, 1, written.etag)
        again = await shelf.restore(record_id, 1, written.etag)

        assert again.seq == first.seq
        assert again.is_again
        await audit(shelf.db)

    async def test_restoring_brings_back_table_and_key(self, shelf):
        record_id = uuid4()
        first = await shelf.put(record_id, SMALL, table="one", key_id="k1")
        other = await shelf.put(
            record_id, LARGE, Condition(etag=first.etag), table="two", key_id="k2"
        )

        restored = await shelf.restore(record_id, 1, other.etag)

        assert (restored.table, restored.key_id) == ("one", "k1")

    async def test_a_smaller_tier_keeps_what_there_is_until_the_next_change(self, shelf):
        shelf.tiers.tier = "team"
        record_id, written = await changed(shelf, 20)
        shelf.tiers.tier = "pro"

        before = await shelf.storage.records.versions(ANNA, record_id)
        await shelf.put(record_id, b"newer", Condition(etag=written.etag))
        after = await shelf.storage.records.versions(ANNA, record_id)

        assert (len(before), len(after)) == (20, 11)
        await audit(shelf.db)

    async def test_a_deletion_for_good_leaves_the_tombstone_alone(self, shelf):
        record_id, written = await changed(shelf, 3, LARGE)

        await shelf.delete(record_id, written.etag, is_final=True)

        versions = await shelf.storage.records.versions(ANNA, record_id)
        assert [(one.rev, one.is_deleted) for one in versions] == [(4, True)]
        await audit(shelf.db)


class TestPut:
    async def test_numbers_changes_of_one_user_without_a_gap(self, shelf):
        one, other = uuid4(), uuid4()

        written = [
            await shelf.put(one, SMALL),
            await shelf.put(other, LARGE),
            await shelf.put(one, LARGE, ANYTHING),
            await shelf.delete(other, "*"),
        ]
        theirs = await shelf.put(uuid4(), SMALL, user_id=BERT)

        assert [one.seq for one in written] == [1, 2, 3, 4]
        assert theirs.seq == 1

    @pytest.mark.parametrize("body", [SMALL, LARGE])
    async def test_that_is_refused_leaves_no_number_and_no_bytes(self, shelf, body):
        record_id, written = await changed(shelf, 2)
        before = await shelf.account()

        with pytest.raises(PreconditionFailed):
            await shelf.put(record_id, body, Condition(etag="1-00000000"))

        after = await shelf.account()
        assert (after.seq, after.record_bytes) == (before.seq, before.record_bytes)
        assert written.seq == after.seq
        await audit(shelf.db)

    async def test_of_a_large_body_is_refused_before_it_has_come(self, shelf):
        record_id, _ = await changed(shelf, 2)
        pieces: list[bytes] = []

        async def arriving():
            pieces.append(LARGE)
            yield LARGE

        write = RecordWrite(record_id, Condition(is_new=True), "notes")
        incoming = Incoming(Expected(len(LARGE)), arriving())
        with pytest.raises(PreconditionFailed):
            await shelf.storage.records.put(principal(), write, incoming)

        assert pieces == []

    @pytest.mark.parametrize("body", [SMALL, LARGE])
    async def test_sent_again_fits_into_a_quota_that_is_full(self, shelf, body):
        shelf.tiers.tier = "pro"
        await fill(shelf.db, ANNA, ALLOWANCES["pro"].record_bytes - len(body))
        record_id = uuid4()
        first = await shelf.put(record_id, body)

        again = await shelf.put(record_id, body)

        assert (again.seq, again.is_again) == (first.seq, True)

    async def test_of_a_large_body_like_the_first_in_size_alone_is_another_change(self, shelf):
        record_id = uuid4()
        await shelf.put(record_id, LARGE)

        with pytest.raises(PreconditionFailed):
            await shelf.put(record_id, _body(LARGE, 1))

        await audit(shelf.db)

    async def test_needs_a_table_for_what_is_new(self, shelf):
        with pytest.raises(TableMissing):
            await shelf.put(uuid4(), SMALL, table=None)

    async def test_that_ends_half_way_leaves_nothing(self, shelf):
        async def leaving():
            yield LARGE[:100]
            raise ConnectionResetError

        write = RecordWrite(uuid4(), Condition(is_new=True), "notes")
        incoming = Incoming(Expected(len(LARGE)), leaving())
        with pytest.raises(ConnectionResetError):
            await shelf.storage.records.put(principal(), write, incoming)

        await audit(shelf.db)


class TestRaces:
    async def test_of_many_replacing_one_revision_one_wins(self, shelf):
        record_id, written = await changed(shelf, 1)
        bodies = [bytes([number]) * (1 if number % 2 else 20_000) for number in range(8)]
        wanted = Condition(etag=written.etag)

        answers = await asyncio.gather(
            *(shelf.put(record_id, body, wanted) for body in bodies), return_exceptions=True
        )

        winners = [n for n, answer in enumerate(answers) if not isinstance(answer, Exception)]
        assert len(winners) == 1
        assert await shelf.body(record_id) == bodies[winners[0]]
        assert {type(a) for n, a in enumerate(answers) if n not in winners} == {PreconditionFailed}
        await audit(shelf.db)

    async def test_of_many_creating_one_record_one_wins(self, shelf):
        record_id = uuid4()

        answers = await asyncio.gather(
            *(shelf.put(record_id, bytes([number])) for number in range(8)),
            return_exceptions=True,
        )

        assert sum(not isinstance(answer, Exception) for answer in answers) == 1
        await audit(shelf.db)

    @pytest.mark.parametrize("body", [SMALL, LARGE])
    async def test_the_same_request_many_times_makes_one_revision(self, shelf, body):
        record_id = uuid4()

        answers = await asyncio.gather(*(shelf.put(record_id, body) for _ in range(6)))

        assert {answer.seq for answer in answers} == {1}
        assert [answer.is_again for answer in answers].count(False) == 1
        assert (await shelf.account()).seq == 1
        await audit(shelf.db)

    @pytest.mark.parametrize("body", [SMALL, LARGE])
    async def test_of_twenty_of_which_ten_fit_ten_succeed(self, shelf, body):
        shelf.tiers.tier = "pro"
        quota = ALLOWANCES["pro"].record_bytes
        await fill(shelf.db, ANNA, quota - 10 * len(body))

        answers = await asyncio.gather(
            *(shelf.put(uuid4(), _body(body, number)) for number in range(20)),
            return_exceptions=True,
        )

        refused = [answer for answer in answers if isinstance(answer, Exception)]
        account = await shelf.account()
        assert len(refused) == 10
        assert {type(error) for error in refused} == {QuotaExceeded}
        assert (account.record_bytes, account.record_reserved_bytes) == (quota, 0)
        assert account.seq == 10

    async def test_deletions_and_changes_of_one_record_leave_exact_sums(self, shelf):
        record_id, written = await changed(shelf, 1, LARGE)

        async def change(number: int) -> None:
            body = _body(SMALL if number % 2 else LARGE, number)
            try:
                if number % 3:
                    await shelf.put(record_id, body, ANYTHING)
                else:
                    await shelf.delete(record_id, "*", is_final=number % 2 == 0)
            except AppError:
                await shelf.put(record_id, body, Condition(is_new=True))

        results = await asyncio.gather(
            *(change(number) for number in range(12)), return_exceptions=True
        )

        refused = {type(one) for one in results if one is not None}
        assert refused <= {PreconditionFailed, NoSuchRecord}
        assert written.seq == 1
        await audit(shelf.db)
