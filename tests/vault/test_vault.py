"""A vault used by several devices of one person, on a store that is honest."""

import io
import os

import httpx
import pytest

from insula_vault import (
    AES_256_GCM_SIV,
    Account,
    Conflict,
    Delete,
    IntegrityError,
    NotFound,
    Put,
    Refused,
    Vault,
)
from insula_vault.ledger import EDITS_MAX
from insula_vault.vault import INLINE_MAX_BYTES
from tests.vault.devices import ROOT, USER_ID, device, through

LARGE = os.urandom(INLINE_MAX_BYTES + 1)
BATCH = "POST /api/v1/storage/batch"


class TestPut:
    def test_makes_a_record_that_another_device_reads(self, phone, laptop):
        made = phone.put("notes", b"hello")

        read = laptop.get(made.id)

        assert (read.data, read.table, read.etag) == (b"hello", "notes", made.etag)

    @pytest.mark.parametrize("data", [b"", b"\0", b"\1", bytes(INLINE_MAX_BYTES), LARGE])
    def test_takes_data_of_any_size(self, phone, laptop, data):
        assert laptop.get(phone.put("notes", data).id).data == data

    def test_replaces_the_revision_it_names(self, phone, laptop):
        made = phone.put("notes", b"one")

        changed = laptop.put("notes", b"two", record_id=made.id, etag=made.etag)

        assert phone.get(made.id).data == b"two"
        assert changed.etag.startswith("2-")

    def test_is_refused_on_a_revision_that_is_not_current(self, phone, laptop):
        made = phone.put("notes", b"one")
        changed = laptop.put("notes", b"two", record_id=made.id, etag=made.etag)

        with pytest.raises(Conflict) as conflict:
            phone.put("notes", b"three", record_id=made.id, etag=made.etag)

        assert conflict.value.etag == changed.etag
        assert phone.get(made.id).data == b"two"

    def test_of_a_new_record_is_refused_where_one_is(self, phone, laptop):
        made = phone.put("notes", b"one")

        with pytest.raises(Conflict):
            laptop.put("notes", b"two", record_id=made.id)

    def test_is_refused_on_a_record_that_was_deleted(self, phone, laptop):
        made = phone.put("notes", b"one")
        laptop.delete(made.id, made.etag)

        with pytest.raises(Conflict) as conflict:
            phone.put("notes", b"two", record_id=made.id, etag=made.etag)

        assert conflict.value.etag is None

    def test_brings_a_deleted_record_back(self, phone, laptop):
        made = phone.put("notes", b"one")
        phone.delete(made.id, made.etag)

        again = laptop.put("notes", b"two", record_id=made.id)

        assert again.etag.startswith("3-")
        phone.sync()
        assert phone.get(made.id).data == b"two"

    def test_finds_its_place_when_only_others_wrote(self, phone, laptop):
        phone.put("notes", b"one")
        laptop.put("notes", b"two")

        phone.put("notes", b"three")

        laptop.sync()
        assert {laptop.get(entry.id).data for entry in laptop.list()} == {b"one", b"two", b"three"}

    def test_sends_nothing_that_can_be_read(self, store, phone):
        phone.put("notes", b"a canary in the mine")
        phone.put("notes", b"another canary".ljust(len(LARGE)))

        assert not [body for body in store.bodies if b"canary" in body or b"Y2FuYXJ5" in body]
        assert not [row for row in store.disk.rows.values() if b"canary" in (row.body or b"")]

    def test_works_with_the_other_algorithm(self, store, phone):
        other = device(store, algorithm=AES_256_GCM_SIV)

        assert phone.get(other.put("notes", b"hello").id).data == b"hello"

    def test_leaves_no_large_body_behind_when_it_replaces_one(self, store, phone, laptop):
        made = phone.put("files", LARGE)
        laptop.sync()

        laptop.put("files", b"small", record_id=made.id, etag=made.etag)

        assert store.bodies_kept() == []

    def test_sends_no_large_body_in_vain(self, store, phone, laptop):
        made = phone.put("files", b"one")
        laptop.sync()
        phone.put("files", b"two", record_id=made.id, etag=made.etag)

        with pytest.raises(Conflict):
            laptop.put("files", LARGE, record_id=made.id, etag=made.etag)

        assert "POST /api/v1/storage/uploads" not in store.requests

    @pytest.mark.parametrize("table", ["", "_head", "a/b"])
    def test_refuses_a_table_that_is_none(self, phone, table):
        with pytest.raises(ValueError, match="A table"):
            phone.put(table, b"")


class TestPutStream:
    def test_reads_what_is_not_in_memory(self, phone, laptop):
        made = phone.put_stream("files", io.BytesIO(LARGE), len(LARGE))
        sink = io.BytesIO()

        laptop.get_stream(made.id, sink)

        assert sink.getvalue() == LARGE

    @pytest.mark.parametrize("size", [len(LARGE) - 1, len(LARGE) + 1])
    def test_refuses_a_source_of_another_size_and_leaves_nothing(self, store, phone, size):
        with pytest.raises(ValueError, match="size"):
            phone.put_stream("files", io.BytesIO(LARGE), size)

        assert store.disk.uploads == {}
        assert store.bodies_kept() == []
        assert phone.list() == []

    def test_sends_a_part_again_whose_answer_was_lost(self, store, laptop):
        lost = {"/parts/2"}

        def lossy(request: httpx.Request) -> httpx.Response:
            answer = store.handle(request)
            if lost and request.url.path.endswith(tuple(lost)):
                lost.clear()
                raise httpx.ReadTimeout("lost")
            return answer

        made = through(httpx.MockTransport(lossy)).put("files", LARGE)

        assert laptop.get(made.id).data == LARGE
        assert lost == set()


class TestGet:
    def test_of_what_is_not_there_is_not_found(self, phone):
        with pytest.raises(NotFound):
            phone.get("00000000-0000-0000-0000-000000000000")

    def test_of_what_another_device_deleted_is_not_found(self, phone, laptop):
        made = phone.put("notes", b"one")
        laptop.sync()
        laptop.delete(made.id, made.etag)

        with pytest.raises(NotFound):
            phone.get(made.id)

    def test_finds_what_another_device_has_changed_since(self, phone, laptop):
        made = phone.put("notes", b"one")
        laptop.sync()
        laptop.put("notes", b"two", record_id=made.id, etag=made.etag)

        assert phone.get(made.id).data == b"two"

    def test_of_small_data_goes_to_a_sink_as_well(self, phone):
        sink = io.BytesIO()

        phone.get_stream(phone.put("notes", b"small").id, sink)

        assert sink.getvalue() == b"small"


class TestDelete:
    def test_takes_the_record_and_its_large_body(self, store, phone, laptop):
        made = phone.put("files", LARGE)

        phone.delete(made.id, made.etag)

        laptop.sync()
        assert laptop.list() == []
        assert store.bodies_kept() == []

    def test_of_a_revision_that_is_not_current_is_a_conflict(self, phone, laptop):
        made = phone.put("notes", b"one")
        laptop.sync()
        laptop.put("notes", b"two", record_id=made.id, etag=made.etag)

        with pytest.raises(Conflict):
            phone.delete(made.id, made.etag)


class TestWrite:
    def test_makes_all_changes_together(self, store, phone, laptop):
        made = phone.put("notes", b"old")

        entries = phone.write(
            [Put("notes", b"one"), Put("tasks", b"two"), Delete(made.id, made.etag)]
        )

        laptop.sync()
        assert {laptop.get(entry.id).data for entry in laptop.list()} == {b"one", b"two"}
        assert entries[2] is None
        assert store.requests.count(BATCH) == 2

    def test_makes_none_when_one_conflicts(self, phone, laptop):
        made = phone.put("notes", b"one")
        laptop.sync()
        laptop.put("notes", b"two", record_id=made.id, etag=made.etag)

        with pytest.raises(Conflict):
            phone.write([Put("notes", b"new"), Delete(made.id, made.etag)])

        assert len(phone.list()) == 1

    def test_refuses_two_changes_of_one_record(self, phone):
        made = phone.put("notes", b"one")

        with pytest.raises(ValueError, match="different records"):
            phone.write([Delete(made.id, made.etag), Put("notes", b"", made.id, made.etag)])

    @pytest.mark.parametrize("count", [0, EDITS_MAX + 1])
    def test_refuses_none_and_too_many(self, phone, count):
        with pytest.raises(ValueError, match="1 to 99"):
            phone.write([Put("notes", b"")] * count)

    def test_refuses_more_bytes_than_a_batch_has(self, phone):
        with pytest.raises(ValueError, match="send several"):
            phone.write([Put("notes", bytes(INLINE_MAX_BYTES))] * 20)

    def test_refuses_large_data(self, phone):
        with pytest.raises(ValueError, match="put_stream"):
            phone.write([Put("notes", LARGE)])

    def test_says_what_the_server_says_when_that_is_no_race(self, store, phone):
        store.disk.retired.add("k1")

        with pytest.raises(Refused, match="batch-refused"):
            phone.put("notes", b"one")


class TestVault:
    def test_is_closed_by_its_block(self, store):
        with device(store) as vault:
            vault.put("notes", b"one")

        with pytest.raises(RuntimeError, match="closed"):
            vault.sync()

    def test_of_another_user_with_the_same_key_opens_nothing(self, store, phone):
        made = phone.put("notes", b"one")
        other = Vault(device(store).wire, Account(USER_ID[:-1] + "2", ROOT))

        with pytest.raises(IntegrityError):
            other.get(made.id)


class TestList:
    def test_shows_the_records_of_a_table(self, phone):
        notes = [phone.put("notes", b"one"), phone.put("notes", b"two")]
        phone.put("tasks", b"three")

        assert phone.list("notes") == sorted(notes, key=lambda entry: entry.id)
        assert len(phone.list()) == 3

    def test_shows_nothing_of_the_kits_own(self, phone):
        phone.put("files", LARGE)
        phone.backups.create(io.BytesIO(b"backup"), 6)

        assert [entry.table for entry in phone.list()] == ["files"]

    def test_asks_the_server_nothing(self, store, phone):
        phone.put("notes", b"one")
        asked = len(store.requests)

        phone.list()

        assert len(store.requests) == asked
