"""Devices that follow each other: over a bad network, beyond the horizon, after a restart."""

import json
from collections.abc import Callable

import httpx
import pytest

from insula_vault import (
    Conflict,
    IntegrityError,
    OutcomeUnknown,
    Put,
    RootKey,
    Unreachable,
)
from tests.vault.devices import ROOT, device, through
from tests.vault.store import Store

BATCH = "POST /api/v1/storage/batch"


class TestLostAnswers:
    """The network drops, doubles and delays; the store is honest."""

    def test_a_change_that_was_made_is_known_as_made(self, store):
        phone = through(httpx.MockTransport(lossy(store, after=True, times=1)))

        made = phone.put("notes", b"one")

        assert store.requests.count(BATCH) == 1
        assert phone.list() == [made]

    def test_a_change_that_was_not_made_is_made(self, store):
        phone = through(httpx.MockTransport(lossy(store, after=False, times=1)))

        made = phone.put("notes", b"one")

        assert store.requests.count(BATCH) == 1
        assert phone.get(made.id).data == b"one"

    def test_a_late_change_is_not_made_twice(self, store, laptop):
        """The first batch arrives when its sender has begun the second one."""
        delayed: list[httpx.Request] = []

        def late(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/batch"):
                if not delayed:
                    delayed.append(request)
                    raise httpx.ReadTimeout("lost")
                store.handle(delayed[0])
            return store.handle(request)

        phone = through(httpx.MockTransport(late))

        made = phone.put("notes", b"one")

        laptop.sync()
        assert [laptop.get(entry.id).data for entry in laptop.list()] == [b"one"]
        assert laptop.get(made.id).etag == made.etag
        assert laptop.head.seq == 1

    def test_a_deletion_that_was_made_is_known_as_made(self, store, laptop):
        made = laptop.put("notes", b"one")
        phone = through(httpx.MockTransport(lossy(store, after=True, times=1)))

        phone.delete(made.id, made.etag)

        assert phone.list() == []

    def test_another_devices_deletion_is_not_taken_for_ones_own(self, store, laptop):
        made = laptop.put("notes", b"one")
        phone = device(store)
        phone.sync()

        def overtaken(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/batch"):
                laptop.delete(made.id, made.etag)
                raise httpx.ReadTimeout("lost")
            return store.handle(request)

        phone = through(httpx.MockTransport(overtaken), state=phone.save())

        with pytest.raises(Conflict):
            phone.delete(made.id, made.etag)

    def test_an_outcome_that_cannot_be_found_out_is_said_to_be_unknown(self, store):
        is_cut = []

        def cut(request: httpx.Request) -> httpx.Response:
            if is_cut or request.url.path.endswith("/batch"):
                is_cut.append(True)
                store.handle(request)
                raise httpx.ReadTimeout("lost")
            return store.handle(request)

        phone = through(httpx.MockTransport(cut))

        with pytest.raises(OutcomeUnknown):
            phone.put("notes", b"one")

    def test_a_race_without_end_is_given_up(self, store, laptop):
        def overtaken(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/batch"):
                laptop.put("notes", b"first")
            return store.handle(request)

        with pytest.raises(Unreachable, match="no place"):
            through(httpx.MockTransport(overtaken)).put("notes", b"one")


class TestSync:
    def test_says_what_other_devices_did_once(self, phone, laptop):
        kept, gone = phone.put("notes", b"one"), phone.put("notes", b"two")
        laptop.sync()
        changed = phone.put("notes", b"three", record_id=kept.id, etag=kept.etag)
        phone.delete(gone.id, gone.etag)

        changes = laptop.sync()

        assert [(one.entry.id, one.is_deleted) for one in changes] == [
            (kept.id, False),
            (gone.id, True),
        ]
        assert changes[0].entry == changed
        assert laptop.sync() == []

    def test_does_not_say_what_this_device_did(self, phone):
        phone.put("notes", b"one")

        assert phone.sync() == []

    def test_reads_page_after_page(self, store, phone, laptop):
        store.page_items = 3
        phone.write([Put("notes", bytes([number])) for number in range(10)])

        assert len(laptop.sync()) == 10

    def test_begins_again_beyond_the_horizon(self, store, phone, laptop):
        kept, gone = phone.put("notes", b"one"), phone.put("notes", b"two")
        laptop.sync()
        phone.delete(gone.id, gone.etag)
        store.horizon = store.disk.seq + 1
        phone.put("notes", b"three", record_id=kept.id, etag=kept.etag)

        changes = laptop.sync()

        assert {(one.entry.id, one.is_deleted) for one in changes} == {
            (kept.id, False),
            (gone.id, True),
        }

    def test_reads_again_when_the_head_moves_meanwhile(self, store, phone):
        phone.put("notes", b"one")
        writes = [b"two", b"three"]

        def busy(request: httpx.Request) -> httpx.Response:
            if "/records/" in request.url.path and writes:
                phone.put("notes", writes.pop())
            return store.handle(request)

        laptop = through(httpx.MockTransport(busy))

        assert len(laptop.sync()) == 3


class TestSave:
    def test_goes_on_where_it_was(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        saved = phone.save()
        laptop.put("notes", b"two")

        again = device(store, state=saved)

        assert again.list() == [made]
        assert len(again.sync()) == 1
        assert again.head == laptop.head

    def test_of_a_device_that_has_seen_nothing_is_taken(self, store, phone):
        assert device(store, state=phone.save()).sync() == []

    def test_holds_no_key_and_no_data(self, phone):
        phone.put("notes", b"a canary")

        assert ROOT.reveal().hex() not in phone.save()
        assert "canary" not in phone.save()

    def test_of_another_account_is_refused(self, store, phone):
        phone.put("notes", b"one")
        saved = json.loads(phone.save())

        with pytest.raises(IntegrityError):
            device(store, state=json.dumps(saved | {"user_id": "somebody"}))

    def test_that_was_changed_is_refused(self, store, phone):
        phone.put("notes", b"one")
        saved = json.loads(phone.save())
        saved["entries"] = []

        with pytest.raises(IntegrityError):
            device(store, state=json.dumps(saved))

    def test_of_another_key_is_refused(self, store, phone):
        phone.put("notes", b"one")

        with pytest.raises(IntegrityError):
            device(store, RootKey.new(), state=phone.save())


def lossy(store: Store, *, after: bool, times: int) -> Callable[[httpx.Request], httpx.Response]:
    """Lose a batch, after the store has made it or before."""
    left = [None] * times

    def handle(request: httpx.Request) -> httpx.Response:
        if not left or not request.url.path.endswith("/batch"):
            return store.handle(request)
        left.pop()
        if after:
            store.handle(request)
        raise httpx.ReadTimeout("lost")

    return handle
