"""What was answered with "stored" survives a power cut; and a store that fails shows nothing."""

from uuid import UUID

import pytest

from app.adapters.blobs.local import LocalBlobStore
from app.adapters.blobs.s3 import PART_BYTES, S3BlobStore
from app.kernel.errors import Unavailable
from app.modules.storage.domain.backups import BackupWrite
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.uploads import Completion, RecordTarget, UploadOrder
from app.modules.storage.service.bodies import Bodies, Intake
from app.modules.storage.service.records import Incoming, RecordDeletion, RecordWrite
from tests.fakes.failing_bucket import failing_bucket
from tests.modules.storage.stockrooms import (
    ANNA,
    LARGE,
    SMALL,
    Stockroom,
    owner,
    people,
    sent,
    sha256,
)
from tests.watched import Watched

RECORD = UUID(int=100)


@pytest.fixture
async def room(sqlite, tmp_path) -> Stockroom:
    await people(sqlite)
    return Stockroom(Watched(sqlite), LocalBlobStore(tmp_path / "blobs"))


async def put(room: Stockroom, data: bytes) -> str:
    write = RecordWrite(RECORD, Condition(is_new=True), "notes")
    incoming = Incoming(Expected(len(data)), sent(data))
    return (await room.records.put(owner(), write, incoming)).etag


async def begun(room: Stockroom) -> UUID:
    target = RecordTarget(RECORD, "notes", "", Condition(is_new=True))
    return (await room.uploads.create(owner(), UploadOrder(target, len(LARGE)))).id


class TestCommit:
    @pytest.mark.parametrize("data", [SMALL, LARGE])
    async def test_of_a_record_is_durable(self, room, data):
        await put(room, data)

        assert room.db.commits[-1]

    async def test_of_a_deletion_is_durable(self, room):
        etag = await put(room, LARGE)
        room.db.commits.clear()

        await room.records.delete(owner(), RecordDeletion(RECORD, Condition(etag=etag)))

        assert room.db.commits == [True]

    async def test_of_a_backup_is_durable(self, room):
        write = BackupWrite(version=1, timestamp_ms=1, chunk_count=1)

        await room.backups.put(owner(), write, Expected(len(LARGE)), sent(LARGE))

        assert room.db.commits[-1]

    async def test_of_each_step_of_an_upload_is_durable(self, room):
        upload_id = await begun(room)
        created = room.db.commits[-1]
        await room.uploads.put_part(ANNA, upload_id, 1, Expected(len(LARGE)), sent(LARGE))
        received = room.db.commits[-1]

        await room.uploads.complete(owner(), upload_id, Completion())

        assert (created, received, room.db.commits[-1]) == (True, True, True)

    async def test_waits_for_the_disk_once_for_a_record(self, room):
        await put(room, LARGE)

        assert room.db.commits.count(True) == 1


class TestBucket:
    async def test_that_fails_half_way_shows_nothing_and_the_next_put_works(self, sqlite, s3):
        await people(sqlite)
        size = PART_BYTES + 1
        intake = Intake(ANNA, "record", Expected(size), None)
        with failing_bucket() as requests:
            failing = S3BlobStore(requests.options)
            bodies = Bodies(sqlite, failing, print, inline_bytes=16, most_bytes=2 * size)

            with pytest.raises(Unavailable):
                await bodies.take_in(intake, sent(bytes(size), 2**20))

            await failing.close()
        room = Stockroom(sqlite, S3BlobStore(s3))
        stock = await room.stock()
        draft = await room.kept(LARGE)
        assert (stock.kept_bytes, stock.reserved_bytes, stock.blob_bytes) == (0, 0, 0)
        assert sha256(await room.read(draft.id)) == draft.sha256
        await room.blobs.close()
