"""Another key for everything, and a broom for what broken writes left."""

import io
import os

import httpx

from insula_vault import rekey, sweep
from insula_vault.upkeep import SWEEP_AGE_MS
from insula_vault.vault import INLINE_MAX_BYTES
from tests.vault.devices import through

LARGE = os.urandom(INLINE_MAX_BYTES + 1)


class TestRekey:
    def test_moves_everything_and_retires_the_old_key(self, store, phone, laptop):
        small, large = phone.put("notes", b"small"), phone.put("files", LARGE)
        phone.backups.create(io.BytesIO(b"backup"), 6)

        moved = rekey(phone, "k2")

        laptop.sync()
        assert moved == 3
        assert store.disk.retired == {"k1"}
        assert laptop.get(small.id).data == b"small"
        assert laptop.get(large.id).data == LARGE
        assert {row.key_id for row in store.disk.rows.values() if row.body} == {"k2", "_head"}
        sink = io.BytesIO()
        laptop.backups.restore(sink)
        assert sink.getvalue() == b"backup"

    def test_goes_on_when_another_device_was_first(self, store, laptop):
        made = laptop.put("notes", b"one")

        def overtaken(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/batch") and laptop.list()[0].etag == made.etag:
                laptop.put("notes", b"two", record_id=made.id, etag=made.etag)
            return store.handle(request)

        phone = through(httpx.MockTransport(overtaken))

        assert rekey(phone, "k2") == 1
        assert phone.get(made.id).data == b"two"


class TestSweep:
    def test_deletes_old_bodies_that_no_record_names(self, store, phone):
        kept = phone.put("files", LARGE)
        phone.bodies.store(io.BytesIO(LARGE), len(LARGE), "k1")

        swept = sweep(phone)

        assert swept == 1
        assert len(store.bodies_kept()) == 1
        assert phone.get(kept.id).data == LARGE

    def test_leaves_what_may_be_on_its_way(self, store, phone, monkeypatch):
        phone.bodies.store(io.BytesIO(LARGE), len(LARGE), "k1")
        monkeypatch.setattr("time.time_ns", lambda: (SWEEP_AGE_MS // 2) * 1_000_000)

        assert sweep(phone) == 0
