"""What does not fit is found, and nothing is changed unless it is asked for."""

import logging

import pytest
from sqlalchemy import update

from app.adapters.blobs.local import LocalBlobStore
from app.kernel.db import uuid7
from app.modules.storage.domain.bodies import blob_key
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.inventory import NAMED_LIMIT, Findings, told
from app.modules.storage.models import AccountRow, BodyRow
from app.modules.storage.repository.bodies import BodyRepository
from app.modules.storage.service.records import Incoming, RecordWrite
from tests.modules.storage.stockrooms import ANNA, LARGE, SMALL, Stockroom, owner, people, sent


@pytest.fixture
async def room(db, tmp_path) -> Stockroom:
    """With two records, and an upload that was broken off."""
    await people(db)
    room = Stockroom(db, LocalBlobStore(tmp_path / "blobs"))
    for data in (SMALL, LARGE):
        write = RecordWrite(uuid7(), Condition(is_new=True), "notes")
        await room.records.put(owner(), write, Incoming(Expected(len(data)), sent(data)))
    await room.take_in(LARGE)
    return room


async def faults(room: Stockroom, *, may_repair: bool = False) -> dict[str, list[str]]:
    findings = await room.inventory.take(may_repair=may_repair)
    return {fault: tally.named for fault, tally in findings.faults.items() if tally.count}


class TestTake:
    async def test_finds_nothing_wrong_with_what_is_sound(self, room):
        findings = await room.inventory.take()

        assert (findings.blobs, findings.parts, findings.accounts) == (2, 2, 1)
        assert findings.is_sound

    async def test_finds_a_blob_that_is_lost(self, room):
        (key, *_) = await room.blob_keys()
        await room.blobs.delete(key)

        assert await faults(room) == {"lost": [key]}

    async def test_finds_a_blob_that_is_too_short(self, room):
        (key, *_) = await room.blob_keys()
        await room.blobs.put(key, sent(LARGE[1:]))

        assert await faults(room) == {"lost": [key]}

    async def test_finds_a_blob_of_nobody(self, room):
        keys = [blob_key(ANNA, uuid7()), "storage/something/else"]
        for key in keys:
            await room.blobs.put(key, sent(LARGE))

        assert sorted((await faults(room))["stray"]) == sorted(keys)

    async def test_finds_a_body_whose_parts_are_gone(self, room):
        draft = await room.kept(LARGE)
        async with room.db.begin() as session:
            (part,) = await BodyRepository(session).parts(draft.id)
            grown = update(BodyRow).where(BodyRow.id == draft.id).values(size_bytes=41)
            await session.execute(grown)
            await session.execute(update(AccountRow).values(record_bytes=45 + 41))

        assert (await faults(room))["torn"] == [str(draft.id)]
        assert part.size_bytes == 40

    async def test_finds_a_body_that_nothing_shows(self, room):
        drafts = [await room.kept(data) for data in (SMALL, LARGE)]

        assert await faults(room) == {"unclaimed": [str(draft.id) for draft in drafts]}

    async def test_finds_sums_that_are_wrong(self, room):
        async with room.db.begin() as session:
            await session.execute(update(AccountRow).values(record_reserved_bytes=41))

        assert await faults(room) == {"miscounted": [str(ANNA)]}

    async def test_changes_nothing(self, room):
        await _spoil(room)
        before = await room.stock()

        await room.inventory.take()

        assert await room.stock() == before

    async def test_repairs_what_can_be_repaired(self, room):
        await _spoil(room)

        found = await faults(room, may_repair=True)
        left = await faults(room)

        assert found.keys() == {"stray", "unclaimed", "miscounted"}
        assert left == {}
        await room.sweep_late()
        stock = await room.stock()
        assert stock.part_bytes == stock.blob_bytes == len(LARGE)
        assert stock.kept_bytes == len(LARGE) + len(SMALL)


class TestRun:
    async def test_tells_what_it_found(self, room, caplog):
        await room.kept(LARGE)

        with caplog.at_level(logging.WARNING):
            await room.inventory.run()

        (findings,) = room.told
        assert findings.unclaimed.count == 1
        assert caplog.messages == ["storage.not-sound"]

    async def test_says_nothing_where_all_is_sound(self, room, caplog):
        with caplog.at_level(logging.WARNING):
            await room.inventory.run()

        assert (len(room.told), caplog.messages) == (1, [])


class TestTold:
    def test_is_one_line_where_all_is_sound(self):
        assert told(Findings(blobs=2, parts=2, accounts=1)) == "2 blobs, 2 parts, 1 accounts: sound"

    def test_names_the_first_of_each_fault(self):
        findings = Findings()
        for number in range(NAMED_LIMIT + 5):
            findings.stray.add(f"key{number:02}")

        lines = told(findings).splitlines()

        assert lines[:2] == ["0 blobs, 0 parts, 0 accounts: not sound", f"stray: {NAMED_LIMIT + 5}"]
        assert lines[2:] == [f"  key{number:02}" for number in range(NAMED_LIMIT)]


async def _spoil(room: Stockroom) -> None:
    await room.blobs.put(blob_key(ANNA, uuid7()), sent(LARGE))
    await room.kept(LARGE)
    async with room.db.begin() as session:
        await session.execute(update(AccountRow).values(record_bytes=1))
