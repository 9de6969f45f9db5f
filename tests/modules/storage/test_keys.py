"""Keys of the client: what they seal, and that a retired one seals nothing any more."""

import asyncio
from uuid import UUID, uuid4

import pytest

from app.modules.storage.domain.conditions import Condition, PreconditionFailed
from app.modules.storage.domain.records import KeyRetired
from app.modules.storage.service import keys
from app.modules.storage.service.keys import KeyInUse, KeysTooMany
from tests.modules.storage.desks import ANNA, BERT, CREATE, Shelf, audit, problem
from tests.waiting import until

WRITERS = 4
WRITES = 6


class TestKeys:
    async def test_say_what_each_seals(self, shelf):
        await shelf.put(uuid4(), b"1", key_id="k1")
        await shelf.put(uuid4(), b"22", key_id="k1")
        gone = uuid4()
        await shelf.put(gone, b"333", key_id="k2")
        await shelf.put(uuid4(), b"4444")
        await shelf.delete(gone, "*")
        await shelf.storage.keys.retire(ANNA, "k2")

        found = await shelf.storage.keys.all(ANNA)

        assert [(one.key_id, one.records, one.size_bytes, one.is_retired) for one in found] == [
            ("", 1, 4, False),
            ("k1", 2, 3, False),
            ("k2", 0, 0, True),
        ]

    async def test_that_seals_something_is_not_retired(self, shelf):
        await shelf.put(uuid4(), b"1", key_id="k1")
        await shelf.put(uuid4(), b"2", key_id="k1")

        with pytest.raises(KeyInUse) as refused:
            await shelf.storage.keys.retire(ANNA, "k1")

        assert refused.value.extra == {"records": 2}

    async def test_that_is_retired_seals_nothing_any_more(self, shelf):
        record_id = uuid4()
        first = await shelf.put(record_id, b"1", key_id="old")
        second = await shelf.put(record_id, b"2", Condition(etag=first.etag), key_id="new")
        await shelf.storage.keys.retire(ANNA, "old")

        with pytest.raises(KeyRetired):
            await shelf.put(uuid4(), b"3", key_id="old")
        with pytest.raises(KeyRetired):
            await shelf.restore(record_id, first.rev, second.etag)
        await audit(shelf.db)

    async def test_are_retired_twice_as_once(self, shelf):
        await shelf.storage.keys.retire(ANNA, "k1")
        await shelf.storage.keys.retire(ANNA, "k1")

        assert len(await shelf.storage.keys.all(ANNA)) == 1

    async def test_of_one_user_are_not_those_of_another(self, shelf):
        await shelf.storage.keys.retire(ANNA, "k1")

        written = await shelf.put(uuid4(), b"1", key_id="k1", user_id=BERT)

        assert written.key_id == "k1"

    async def test_of_which_too_many_are_retired_are_refused(self, shelf, monkeypatch):
        monkeypatch.setattr(keys, "KEYS_LIMIT", 2)
        for number in range(2):
            await shelf.storage.keys.retire(ANNA, f"k{number}")

        with pytest.raises(KeysTooMany):
            await shelf.storage.keys.retire(ANNA, "k2")

    async def test_an_old_one_seals_nothing_after_a_change_of_keys_while_many_write(self, shelf):
        ids = [uuid4() for _ in range(WRITERS)]
        for record_id in ids:
            await shelf.put(record_id, b"0", key_id="old")

        writers = [asyncio.create_task(_write_on(shelf, record_id)) for record_id in ids]
        await until(lambda: _retire(shelf, ids), within_s=60)
        await asyncio.gather(*writers)

        found = await shelf.storage.keys.all(ANNA)
        assert [(one.key_id, one.records) for one in found] == [("new", WRITERS), ("old", 0)]
        with pytest.raises(KeyRetired):
            await shelf.put(ids[0], b"late", Condition(etag="*"), key_id="old")
        await audit(shelf.db)


@pytest.mark.asyncio(loop_scope="module")
class TestControllers:
    async def test_shows_and_retires(self, fresh):
        record_id = uuid4()
        await fresh.put(record_id, b"1", CREATE | {"x-key-id": "k1"})

        listed = (await fresh.ask("GET", "/keys")).json()
        in_use = await fresh.ask("DELETE", "/keys/k1")
        retired = await fresh.ask("DELETE", "/keys/k2")
        refused = await fresh.put(uuid4(), b"1", CREATE | {"x-key-id": "k2"})

        assert listed == {
            "items": [{"key_id": "k1", "records": 1, "bytes": 1, "is_retired": False}]
        }
        assert problem(in_use) == (409, "key-in-use")
        assert in_use.json()["records"] == 1
        assert (retired.status_code, retired.content) == (204, b"")
        assert problem(refused) == (409, "key-retired")

    @pytest.mark.parametrize("name", ["a%20b", "x" * 65, "%C3%A9"])
    async def test_refuses_a_name_that_is_none(self, desk, name):
        assert problem(await desk.ask("DELETE", f"/keys/{name}")) == (400, "name-malformed")

    async def test_usage_says_what_there_is_and_may_be(self, desk):
        anna = await desk.member("anna", "pro")
        await anna.made(b"12345")

        assert await anna.usage() == {
            "used_bytes": 5,
            "reserved_bytes": 0,
            "quota_bytes": 5 * 2**30,
            "backup_used_bytes": 0,
            "backup_reserved_bytes": 0,
            "backup_quota_bytes": 5 * 2**30,
            "versions": 10,
            "max_object_bytes": 5 * 2**30,
        }


async def _write_on(shelf: Shelf, record_id: UUID) -> None:
    """A device that goes on for a while with the key it knows."""
    for number in range(WRITES):
        try:
            await shelf.put(record_id, b"%d" % number, Condition(etag="*"), key_id="old")
        except KeyRetired:
            return


async def _retire(shelf: Shelf, ids: list[UUID]) -> bool:
    """Seal everything anew, and retire the old key if nobody was faster; whether that was so."""
    for record_id in ids:
        found = await shelf.storage.records.get(ANNA, record_id)
        wanted = Condition(etag=found.revision.etag)
        try:
            await shelf.put(record_id, b"sealed anew", wanted, key_id="new")
        except PreconditionFailed:
            continue
    try:
        await shelf.storage.keys.retire(ANNA, "old")
    except KeyInUse:
        return False
    return True
