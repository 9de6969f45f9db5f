"""Two devices of one person on a real house: everything a vault can do, once."""

import io
import os

import numpy as np
import pytest

from insula_vault import (
    LEAKAGE_ACK,
    Account,
    Conflict,
    Item,
    NotFound,
    Put,
    Refused,
    RootKey,
    Session,
    Vault,
    Wire,
    register,
    rekey,
)
from insula_vault.wire import Call
from tests.house import KEY
from tests.vault.in_process import BASE

LARGE = os.urandom(600_000)
ROWS = np.random.default_rng(5).standard_normal((40, 16)).astype("<f4")


@pytest.fixture
def vaults(house) -> list[Vault]:
    """The owner's phone and laptop. Only the owner has storage without paying, so all tests have
    one vault: what a test makes, it takes away.
    """
    wires = [Wire(BASE, Session(KEY), transport=house) for _ in range(2)]
    user_id = str(wires[0].json(Call("GET", "/api/v1/auth/me"))["id"])
    return [Vault(wire, Account(user_id, ROOT)) for wire in wires]


ROOT = RootKey.new()


class TestRecords:
    def test_are_written_read_changed_and_deleted(self, vaults):
        phone, laptop = vaults
        made = phone.put("notes", b"one")
        changed = laptop.put("notes", b"two", record_id=made.id, etag=made.etag)

        with pytest.raises(Conflict):
            phone.put("notes", b"three", record_id=made.id, etag=made.etag)

        assert phone.get(made.id).data == b"two"
        laptop.delete(made.id, changed.etag)
        assert [(one.entry.id, one.is_deleted) for one in phone.sync()] == [(made.id, True)]
        with pytest.raises(NotFound):
            phone.get(made.id)

    def test_come_back_after_they_were_deleted(self, vaults):
        phone, laptop = vaults
        made = phone.put("notes", b"one")
        phone.delete(made.id, made.etag)

        again = laptop.put("notes", b"two", record_id=made.id)

        assert phone.get(made.id).data == b"two"
        laptop.delete(made.id, again.etag)

    def test_of_any_size_come_back_as_they_were(self, vaults):
        phone, laptop = vaults
        made = phone.put("files", LARGE)
        sink = io.BytesIO()

        laptop.get_stream(made.id, sink)

        assert sink.getvalue() == LARGE
        phone.delete(made.id, made.etag)
        keys = phone.wire.json(Call("GET", "/api/v1/storage/keys"))["items"]
        assert {one["key_id"]: one["records"] for one in keys if one["records"]} == {"_head": 1}

    def test_are_all_sealed_with_another_key_and_the_old_one_retired(self, vaults):
        phone, laptop = vaults
        small, large = phone.write([Put("notes", b"small")])[0], phone.put("files", LARGE)

        moved = rekey(phone, "k2")

        assert moved == 2
        assert laptop.get(small.id).data == b"small"
        assert laptop.get(large.id).data == LARGE
        with pytest.raises(Refused, match="batch-refused"):
            laptop.put("notes", b"with the old key")
        for entry in phone.list():
            phone.delete(entry.id, entry.etag)


class TestBackups:
    def test_are_made_restored_and_deleted(self, vaults):
        phone, laptop = vaults
        phone.key_id = laptop.key_id = "k3"
        phone.backups.create(io.BytesIO(LARGE), len(LARGE))
        newest = phone.backups.create(io.BytesIO(b"two"), 3)

        versions = [one.version for one in laptop.backups.list()]
        phone.backups.delete(newest)
        sink = io.BytesIO()
        laptop.backups.restore(sink)

        assert versions == [2, 1]
        assert sink.getvalue() == LARGE


class TestCollections:
    def test_that_are_sealed_are_searched_here(self, vaults):
        phone, laptop = vaults
        phone.key_id = "k3"
        made = phone.collections.create_sealed("sealed", model="m", dimension=16)
        made.upsert([Item(f"item-{number}", row) for number, row in enumerate(ROWS)])

        found = laptop.collections.open("sealed").search(ROWS[7], top_k=1)

        assert found[0].id == "item-7"
        phone.collections.delete("sealed")

    def test_that_are_dcpe_are_ranked_there_and_change_their_key(self, vaults):
        phone, laptop = vaults
        phone.key_id = "k3"
        made = phone.collections.create_dcpe(
            "ranked", model="m", mean=np.zeros(16), leakage_ack=LEAKAGE_ACK
        )
        items = [
            Item(f"item-{number}", row, b"data", {"lang": "de"}) for number, row in enumerate(ROWS)
        ]
        made.upsert(items)

        before = laptop.collections.open("ranked").search(ROWS[7], top_k=1)
        rotated = phone.collections.rotate("ranked")
        after = rotated.search(ROWS[7], top_k=1, tags={"lang": "de"})

        assert [before[0].id, after[0].id] == ["item-7", "item-7"]
        assert rotated.search(ROWS[7], tags={"lang": "en"}) == []
        assert rotated.delete(["item-7"]) == 1
        assert rotated.search(ROWS[7], top_k=1)[0].id != "item-7"
        phone.collections.delete("ranked")


class TestTiers:
    def test_that_have_no_storage_are_told_so(self, house):
        vault = register(BASE, "free@example.org", "correct horse battery", transport=house)

        with pytest.raises(Refused, match="tier-required"):
            vault.put("notes", b"one")
