"""Backups: whole, authentic, and the latest there is."""

import io
import os
from dataclasses import replace

import pytest

from insula_vault import IntegrityError, NotFound, Vault
from tests.vault.devices import device

DATA = os.urandom(200_000)


@pytest.fixture
def vault(store) -> Vault:
    return device(store)


def created(vault: Vault, data: bytes):
    return vault.backups.create(io.BytesIO(data), len(data))


def restored(vault: Vault, *which) -> bytes:
    sink = io.BytesIO()
    vault.backups.restore(sink, *which)
    return sink.getvalue()


class TestCreate:
    def test_is_restored_by_another_device(self, store, vault):
        created(vault, DATA)

        assert restored(device(store)) == DATA

    def test_counts_versions_upwards_on_every_device(self, store, vault):
        versions = [created(one, b"x").version for one in (vault, device(store), vault)]

        assert versions == [1, 2, 3]

    def test_goes_on_after_a_backup_that_nobody_wrote_down(self, store, vault):
        """A device that ended between the upload and the record that vouches for it."""
        created(vault, b"one")
        store.disk.backups.append({**store.disk.backups[0], "id": "other", "version": 2})

        assert created(vault, b"three").version == 3

    def test_refuses_a_source_of_another_size(self, store, vault):
        with pytest.raises(ValueError, match="size"):
            vault.backups.create(io.BytesIO(DATA), len(DATA) + 1)

        assert store.disk.backups == []

    def test_sends_nothing_that_can_be_read(self, store, vault):
        created(vault, b"a canary in the mine")

        assert not [body for body in store.bodies if b"canary" in body]


class TestList:
    def test_shows_the_newest_first(self, vault):
        created(vault, b"one")
        created(vault, b"two")

        assert [one.version for one in vault.backups.list()] == [2, 1]


class TestRestore:
    def test_takes_the_latest(self, vault):
        created(vault, b"one")
        created(vault, b"two")

        assert restored(vault) == b"two"

    def test_takes_an_older_one_that_is_named(self, vault):
        older = created(vault, b"one")
        created(vault, b"two")

        assert restored(vault, older) == b"one"

    def test_of_nothing_is_not_found(self, vault):
        with pytest.raises(NotFound):
            restored(vault)

    def test_refuses_an_older_one_as_the_latest(self, store, vault):
        created(vault, b"one")
        created(vault, b"two")
        store.disk.backups.pop()

        with pytest.raises(IntegrityError, match="shows backup 1; there is 2"):
            restored(device(store))

    def test_refuses_an_older_one_under_a_new_name(self, store, vault):
        older = created(vault, b"one")

        with pytest.raises(IntegrityError, match="shows backup 1 as 2"):
            restored(vault, replace(older, version=2))

    def test_refuses_that_there_is_none(self, store, vault):
        created(vault, b"one")
        store.disk.backups.clear()

        with pytest.raises(IntegrityError, match="hides backup 1"):
            restored(vault)

    def test_refuses_one_that_is_cut_off(self, store, vault):
        created(vault, DATA)
        store.disk.backups[0]["body"] = store.disk.backups[0]["body"][:70_000]

        with pytest.raises(IntegrityError):
            restored(vault)


class TestDelete:
    def test_makes_the_one_before_it_the_latest(self, vault):
        created(vault, b"one")
        newest = created(vault, b"two")

        vault.backups.delete(newest)

        assert restored(vault) == b"one"

    def test_does_not_give_a_version_away_again(self, vault):
        vault.backups.delete(created(vault, b"one"))

        assert created(vault, b"two").version == 2
