"""A process dies anywhere; after the sweep the store holds the bytes that it counts, no others."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from app.adapters.blobs.local import LocalBlobStore
from app.adapters.blobs.s3 import S3BlobStore
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.modules.storage.models import (
    AccountRow,
    BodyRow,
    PartRow,
    RecordRow,
    RevisionRow,
    UploadRow,
)
from tests import tables
from tests.modules.storage.scripts import DELETED, RECORDS, SCRIPTS, Caller, Deed, Script, held
from tests.modules.storage.stockrooms import PART_BYTES, Stockroom, people
from tests.mortals import NEVER, Death, Fate, MortalDatabase, MortalStore

DEEDS = st.builds(
    Deed,
    st.sampled_from(
        (
            "put",
            "put",
            "delete",
            "purge",
            "break",
            "mismatch",
            "upload",
            "abandon",
            "give_up",
            "sweep",
        )
    ),
    st.integers(0, RECORDS - 1),
    st.sampled_from((8, 40, 60)),
)


def enlarged(deeds: Sequence[Deed]) -> tuple[Deed, ...]:
    """An upload has two parts."""
    uploads = {"upload", "abandon"}
    return tuple(
        Deed(one.verb, one.record, PART_BYTES + one.size) if one.verb in uploads else one
        for one in deeds
    )


async def lived(db: Database, blobs, script: Script, dies_at: int) -> tuple[Caller, int]:
    """Do the deeds as far as one gets; the caller, and the steps that were taken."""
    caller = Caller(Stockroom(db, blobs))
    await caller.do(script.given)
    fate = Fate(dies_at)
    caller.room = Stockroom(MortalDatabase(db, fate), MortalStore(blobs, fate))
    with suppress(Death):
        await caller.do(script.deeds)
    return caller, fate.steps


async def check(db: Database, blobs, caller: Caller) -> None:
    """Another process sweeps up; then everything fits, and nothing is lost that was promised."""
    room = Stockroom(db, blobs)
    await room.sweep_late()

    stock, found, findings = await room.stock(), await held(room), await room.inventory.take()
    assert stock.part_bytes == stock.blob_bytes
    assert stock.reserved_bytes == 0
    assert stock.states.keys() <= {"body kept", "part kept"}
    assert findings.is_sound, findings
    for number in range(RECORDS):
        promised = caller.promised.get(number, DELETED)
        assert found.get(number, DELETED) in {promised, caller.maybe.get(number, promised)}


async def crash(db: Database, blobs, script: Script, dies_at: int) -> int:
    """In an empty store a process dies at this step; how far it came."""
    caller, steps = await lived(db, blobs, script, dies_at)
    await check(db, blobs, caller)
    return steps


async def emptied(db: Database, blobs) -> None:
    """Another engine for each death would cost more than all that it does."""
    async with db.begin() as session:
        for kind in (PartRow, BodyRow, RevisionRow, RecordRow, UploadRow, AccountRow):
            await session.execute(delete(kind))
    async for key in blobs.keys("storage/"):
        await blobs.delete(key)


async def crash_anew(folder: Path, script: Script, dies_at: int) -> None:
    url = f"sqlite+insula:///{folder / 'insula.db'}"
    await tables.lay(url)
    db = Database(url, JobBook())
    await people(db)
    await crash(db, LocalBlobStore(folder / "blobs"), script, dies_at)
    await db.close()


class TestDeath:
    @pytest.mark.parametrize("script", SCRIPTS)
    async def test_at_any_step_loses_and_leaves_nothing(self, sqlite, tmp_path, script):
        blobs = LocalBlobStore(tmp_path / "blobs")
        await people(sqlite)
        steps = await crash(sqlite, blobs, SCRIPTS[script], NEVER)

        for point in range(steps):
            await emptied(sqlite, blobs)
            assert await crash(sqlite, blobs, SCRIPTS[script], point) == point

        assert steps > 2

    @settings(max_examples=15, deadline=None)
    @given(deeds=st.lists(DEEDS, min_size=1, max_size=6), dies_at=st.integers(0, 80))
    def test_in_any_sequence_loses_and_leaves_nothing(self, tmp_path_factory, deeds, dies_at):
        folder = tmp_path_factory.mktemp("crash")

        asyncio.run(crash_anew(folder, Script(enlarged(deeds)), dies_at))

    @pytest.mark.parametrize(
        ("script", "point"), [("purged", 14), ("purged", 25), ("uploaded", 20)]
    )
    async def test_is_the_same_on_servers(self, db, s3, script, point):
        blobs = S3BlobStore(s3)
        await people(db)

        steps = await crash(db, blobs, SCRIPTS[script], point)

        assert steps == point
        await blobs.close()
