"""A server that lies (S14): it rolls back, hides, replaces and forks, and is found out.

The store is honest until it is told to lie; then it does what an operator with yesterday's disk,
every ciphertext and no key can do.
"""

from collections.abc import Callable

import httpx
import pytest

from insula_vault import IntegrityError, RootKey, Vault
from tests.vault.devices import device, through
from tests.vault.store import Disk, Row, Store

CHANGES = "/api/v1/storage/changes"


def renumber(disk: Disk, *records: str) -> None:
    """Move records to the end of the feed, where a device with a cursor sees them."""
    for record_id in records:
        disk.seq += 1
        row = disk.rows[record_id]
        disk.rows[record_id] = Row(
            row.id, row.table, row.key_id, row.rev, disk.seq, row.base, row.body
        )


def head_id(store: Store) -> str:
    return next(row.id for row in store.disk.rows.values() if row.table == "_head")


class TestRollback:
    def test_of_everything_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        yesterday = store.snapshot()
        phone.put("notes", b"two", record_id=made.id, etag=made.etag)
        laptop.sync()
        store.restore(yesterday)
        renumber(store.disk, made.id, made.id, head_id(store), head_id(store), made.id)

        with pytest.raises(IntegrityError, match="went back"):
            laptop.sync()

    def test_of_everything_to_a_device_that_starts_again_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        yesterday = store.snapshot()
        phone.put("notes", b"two", record_id=made.id, etag=made.etag)
        laptop.sync()
        store.restore(yesterday)
        store.horizon = 10_000

        with pytest.raises(IntegrityError, match="went back"):
            laptop.sync()

    def test_of_one_record_in_the_feed_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        old = store.disk.rows[made.id]
        phone.put("notes", b"two", record_id=made.id, etag=made.etag)
        laptop.sync()
        store.disk.rows[made.id] = old
        renumber(store.disk, made.id, made.id, made.id)

        with pytest.raises(IntegrityError, match="went back"):
            laptop.sync()

    def test_of_one_record_to_a_new_device_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        old = store.disk.rows[made.id]
        phone.put("notes", b"two", record_id=made.id, etag=made.etag)
        store.disk.rows[made.id] = old

        with pytest.raises(IntegrityError, match="vouches"):
            laptop.sync()

    def test_of_one_body_is_caught(self, store, phone):
        made = phone.put("notes", b"one")
        old = store.disk.rows[made.id]
        phone.put("notes", b"two", record_id=made.id, etag=made.etag)
        store.disk.rows[made.id] = old

        with pytest.raises(IntegrityError):
            phone.get(made.id)

    def test_of_one_body_under_its_new_etag_is_caught(self, store, phone):
        made = phone.put("notes", b"one")
        old = store.disk.rows[made.id]
        now = phone.put("notes", b"two", record_id=made.id, etag=made.etag)
        vault = bent(store, f"/records/{made.id}", old.body or b"", {"etag": f'"{now.etag}"'})
        vault.sync()

        with pytest.raises(IntegrityError, match="another body"):
            vault.get(made.id)

    def test_of_the_head_alone_is_caught(self, store, phone, laptop):
        phone.put("notes", b"one")
        old = store.disk.rows[head_id(store)]
        phone.put("notes", b"two")
        store.disk.rows[old.id] = old

        with pytest.raises(IntegrityError, match="vouches"):
            laptop.sync()


class TestHiding:
    def test_of_a_record_from_a_new_device_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        phone.put("notes", b"two")
        del store.disk.rows[made.id]

        with pytest.raises(IntegrityError, match="vouches for 2 records and the server shows 1"):
            laptop.sync()

    def test_of_a_record_that_is_known_is_caught(self, store, phone):
        made = phone.put("notes", b"one")
        del store.disk.rows[made.id]

        with pytest.raises(IntegrityError, match="hides"):
            phone.get(made.id)

    def test_of_a_change_while_its_head_is_shown_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        laptop.sync()
        hidden = store.disk.rows[made.id]
        phone.put("notes", b"two", record_id=made.id, etag=made.etag)
        store.disk.rows[made.id] = hidden

        with pytest.raises(IntegrityError, match="vouches"):
            laptop.sync()

    def test_of_the_head_is_caught(self, store, phone, laptop):
        phone.put("notes", b"one")
        laptop.sync()
        del store.disk.rows[head_id(store)]
        store.horizon = 10_000

        with pytest.raises(IntegrityError, match="no longer shows the head"):
            laptop.sync()

    def test_of_everything_is_caught(self, store, phone, laptop):
        phone.put("notes", b"one")
        laptop.sync()
        store.restore(Disk())
        store.horizon = 10_000

        with pytest.raises(IntegrityError):
            laptop.sync()

    def test_of_a_large_body_is_caught(self, store, phone):
        made = phone.put("files", bytes(300_000))
        (body,) = [row for row in store.disk.rows.values() if row.table == "_body"]
        del store.disk.rows[body.id]

        with pytest.raises(IntegrityError, match="hides"):
            phone.get(made.id)

    def test_of_the_end_of_a_large_body_is_caught(self, store, phone):
        made = phone.put("files", bytes(300_000))
        (body,) = [row for row in store.disk.rows.values() if row.table == "_body"]
        vault = bent(store, f"/records/{body.id}", (body.body or b"")[:200_000], {})

        with pytest.raises(IntegrityError):
            vault.get(made.id)

    def test_of_a_deletion_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        old = store.disk.rows[made.id]
        laptop.sync()
        phone.delete(made.id, made.etag)
        store.disk.rows[made.id] = old

        with pytest.raises(IntegrityError, match="vouches for 0 records and the server shows 1"):
            laptop.sync()


class TestReplacing:
    def test_one_record_by_another_is_caught(self, store, phone):
        one, two = phone.put("notes", b"one"), phone.put("notes", b"two")
        body = store.disk.rows[two.id].body or b""
        vault = bent(store, f"/records/{one.id}", body, {"etag": f'"{one.etag}"'})
        vault.sync()

        with pytest.raises(IntegrityError):
            vault.get(one.id)

    def test_two_records_with_each_other_everywhere_is_caught(self, store, phone, laptop):
        one, two = phone.put("notes", b"one"), phone.put("notes", b"two")
        rows = store.disk.rows
        first, second = rows[one.id], rows[two.id]
        rows[one.id] = Row(one.id, "notes", "k1", 1, first.seq, "none", second.body)
        rows[two.id] = Row(two.id, "notes", "k1", 1, second.seq, "none", first.body)

        with pytest.raises(IntegrityError):
            laptop.sync()

    def test_a_table_by_another_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        row = store.disk.rows[made.id]
        store.disk.rows[made.id] = Row(row.id, "tasks", "k1", 1, row.seq, "none", row.body)

        with pytest.raises(IntegrityError):
            laptop.sync()

    def test_by_something_of_the_servers_own_is_caught(self, store, phone, laptop):
        phone.put("notes", b"one")
        store.disk.seq += 1
        store.disk.rows["x"] = Row("x", "notes", "k1", 1, store.disk.seq, "none", b"planted")

        with pytest.raises(IntegrityError, match="vouches for 1 records and the server shows 2"):
            laptop.sync()

    def test_the_head_by_another_accounts_is_caught(self, store, phone):
        phone.put("notes", b"one")

        with pytest.raises(IntegrityError):
            device(store, RootKey.new()).sync()

    def test_the_head_by_another_record_is_caught(self, store, phone, laptop):
        made = phone.put("notes", b"one")
        row = store.disk.rows[made.id]
        store.disk.rows[made.id] = Row(row.id, "_head", "k1", 1, 99, "none", row.body)

        with pytest.raises(IntegrityError, match="not this vault's"):
            laptop.sync()


class TestForking:
    def test_is_caught_when_the_branches_meet(self, store, phone, laptop):
        """Each device is shown the other's silence; then one is shown the other's branch."""
        phone.put("notes", b"common")
        laptop.sync()
        fork = store.snapshot()
        phone.put("notes", b"the phone's")
        store.restore(fork)
        laptop.put("notes", b"the laptop's")

        with pytest.raises(IntegrityError, match="forked"):
            phone.sync()

    def test_is_caught_also_when_one_branch_is_much_longer(self, store, phone, laptop):
        phone.put("notes", b"common")
        laptop.sync()
        fork = store.snapshot()
        phone.put("notes", b"the phone's")
        store.restore(fork)
        for number in range(5):
            laptop.put("notes", bytes([number]))

        with pytest.raises(IntegrityError, match="forked"):
            phone.sync()

    def test_is_caught_by_a_device_that_only_reads(self, store, phone, laptop):
        phone.put("notes", b"common")
        laptop.sync()
        fork, reader = store.snapshot(), device(store)
        phone.put("notes", b"the phone's")
        reader.sync()
        store.restore(fork)
        for number in range(3):
            laptop.put("notes", bytes([number]))

        with pytest.raises(IntegrityError, match="forked"):
            reader.sync()

    def test_is_caught_after_a_restart_with_the_saved_state(self, store, phone, laptop):
        phone.put("notes", b"common")
        laptop.sync()
        fork = store.snapshot()
        phone.put("notes", b"the phone's")
        saved = phone.save()
        store.restore(fork)
        laptop.put("notes", b"the laptop's")

        with pytest.raises(IntegrityError, match="forked"):
            device(store, state=saved).sync()

    def test_is_not_seen_by_a_device_that_knows_nothing(self, store, phone):
        """The limit of it: whoever starts without a state believes the first head it is shown."""
        phone.put("notes", b"one")
        yesterday = store.snapshot()
        phone.put("notes", b"two")
        store.restore(yesterday)

        fresh = device(store)
        fresh.sync()

        assert fresh.head.fingerprint != phone.head.fingerprint


class TestAnswers:
    """What does not even look as the contract says."""

    @pytest.mark.parametrize(
        "page",
        [
            {},
            {"items": [], "cursor": ""},
            {"items": {}, "cursor": "c"},
            {"items": [{}], "cursor": "c"},
            {"items": [{"seq": "x"}], "cursor": "c"},
        ],
    )
    def test_of_the_feed_are_refused(self, store, page):
        with pytest.raises(IntegrityError):
            scripted(store, CHANGES, lambda: httpx.Response(200, json=page)).sync()

    def test_of_a_feed_without_end_are_given_up(self, store, monkeypatch):
        monkeypatch.setattr("insula_vault.feed.PAGES_MAX", 50)
        endless = {"items": [], "cursor": "c", "has_more": True}

        with pytest.raises(IntegrityError, match="no end"):
            scripted(store, CHANGES, lambda: httpx.Response(200, json=endless)).sync()

    def test_of_a_feed_that_goes_back_are_refused(self, store, phone):
        phone.put("notes", b"one")
        row = next(iter(store.disk.rows.values())).shown()
        page = {"items": [row, row], "cursor": "c", "has_more": False}

        with pytest.raises(IntegrityError, match="goes back"):
            scripted(store, CHANGES, lambda: httpx.Response(200, json=page)).sync()

    @pytest.mark.parametrize(
        "results",
        [
            None,
            [],
            [{"etag": '"1-00000000"'}, {"etag": '"1-00000000"'}],
            [{"etag": "x"}, {"etag": "x"}],
            ["x", "x"],
        ],
    )
    def test_of_a_batch_are_refused(self, store, results):
        said = {"results": results}
        vault = scripted(store, "/api/v1/storage/batch", lambda: httpx.Response(200, json=said))

        with pytest.raises(IntegrityError):
            vault.put("notes", b"one")

    def test_of_a_batch_that_gives_a_revision_another_number_are_refused(self, store, phone):
        made = phone.put("notes", b"one")
        honest = store.write

        def skipping(operation):
            row = honest(operation)
            row = Row(row.id, row.table, row.key_id, 7, row.seq, row.base, row.body)
            store.disk.rows[row.id] = row
            return row

        store.write = skipping

        with pytest.raises(IntegrityError, match="follows on another"):
            phone.put("notes", b"two", record_id=made.id, etag=made.etag)

    def test_after_a_lie_nothing_of_it_is_kept(self, store, phone, laptop):
        phone.put("notes", b"one")
        laptop.sync()
        before, made = laptop.save(), phone.put("notes", b"two")
        hidden = store.disk.rows.pop(made.id)
        with pytest.raises(IntegrityError):
            laptop.sync()

        kept = laptop.save()
        store.disk.rows[made.id] = hidden

        assert kept == before
        assert [one.entry for one in laptop.sync()] == [made]


def scripted(store: Store, path: str, answer: Callable[[], httpx.Response]) -> Vault:
    """A device whose calls of one path are answered by a liar."""

    def handle(request: httpx.Request) -> httpx.Response:
        return answer() if request.url.path.endswith(path) else store.handle(request)

    return through(httpx.MockTransport(handle))


def bent(store: Store, path: str, body: bytes, headers: dict[str, str]) -> Vault:
    return scripted(store, path, lambda: httpx.Response(200, content=body, headers=headers))
