"""Storage: keeps what its clients have sealed, and loses no write of it.

Routes, below ``/api/v1/storage``: ``GET``, ``POST /records``; ``GET``, ``HEAD``, ``PUT``, ``DELETE
/records/{id}``; ``GET /records/{id}/versions``, ``POST /records/{id}/restore``; ``GET /changes``;
``POST /batch``; ``GET /keys``, ``DELETE /keys/{id}``; ``GET /usage``; ``POST /uploads``; ``GET``,
``DELETE /uploads/{id}``; ``PUT``, ``POST /uploads/{id}/parts/{n}``; ``POST
/uploads/{id}/complete``; ``GET /collections``; ``GET``, ``PUT``, ``DELETE /collections/{name}``;
``POST /vectors/upsert``, ``/vectors/search``; ``DELETE /vectors``; ``GET
/vectors/{collection}/{id}``. And ``GET``, ``PUT /api/v1/backup``; ``GET /api/v1/backup/history``;
``GET``, ``DELETE /api/v1/backup/{id}``. Tables:
``storage_accounts``, ``storage_retired_keys``, ``storage_bodies``, ``storage_parts``,
``storage_records``, ``storage_revisions``, ``storage_uploads``, ``storage_backups``,
``storage_collections``, ``storage_vectors``.

A body and each of its parts are open while bytes come in, kept from the commit that shows them
on, then doomed, and removed by the sweep. A record is live or a tombstone, and has a new revision
with each change. An upload is open, then committed, aborted or expired.
"""

import argparse

from litestar.di import Provide

from app.kernel.jobs import Job
from app.kernel.module import Command, Kit, Module, known
from app.kernel.ports import BlobLinks
from app.modules.billing.api import Tiers
from app.modules.storage.adapters import open_index
from app.modules.storage.adapters.tally import show
from app.modules.storage.controllers import (
    BackupController,
    CollectionController,
    RecordController,
    SyncController,
    UploadController,
    VectorController,
)
from app.modules.storage.domain.inventory import told
from app.modules.storage.models import (
    AccountRow,
    BackupRow,
    BodyRow,
    CollectionRow,
    KeyRow,
    PartRow,
    RecordRow,
    RevisionRow,
    UploadRow,
    VectorRow,
)
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.backups import Backups
from app.modules.storage.service.batches import Batches
from app.modules.storage.service.bodies import Bodies
from app.modules.storage.service.changes import Changes
from app.modules.storage.service.inventory import Inventory
from app.modules.storage.service.keys import Keys
from app.modules.storage.service.records import Records
from app.modules.storage.service.sweep import Patience, Sweep
from app.modules.storage.service.uploads import Sessions, Targets, Uploads
from app.modules.storage.service.vectors import Collections, Vectors
from app.modules.storage.settings import StorageSettings

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


class StorageModule(Module):
    name = "storage"
    settings_type = StorageSettings
    models = (
        AccountRow,
        BackupRow,
        BodyRow,
        CollectionRow,
        KeyRow,
        PartRow,
        RecordRow,
        RevisionRow,
        UploadRow,
        VectorRow,
    )
    routes = (
        BackupController,
        CollectionController,
        RecordController,
        SyncController,
        UploadController,
        VectorController,
    )

    def __init__(self, settings: StorageSettings, kit: Kit) -> None:
        self._settings = settings
        db, clock = kit.db, kit.clock
        allowances = Allowances(kit.use(Tiers))
        self.bodies = Bodies(
            db,
            kit.blobs,
            clock,
            inline_bytes=settings.inline_bytes,
            most_bytes=settings.max_object_bytes,
        )
        self.records = Records(db, self.bodies, allowances, clock)
        self.changes = Changes(
            db, {one: kit.keys.derive("storage-cursor", key_id=one) for one in kit.keys.ids}
        )
        self.batches = Batches(db, self.records, allowances)
        self.keys = Keys(db, allowances)
        self.backups = Backups(db, self.bodies, allowances, clock)
        links = kit.blobs if isinstance(kit.blobs, BlobLinks) else None
        self.uploads = Uploads(
            db,
            self.bodies,
            Targets(self.records, self.backups),
            allowances,
            clock,
            Sessions(settings.part_bytes, settings.upload_hours * HOUR_S, links),
        )
        self._index = open_index(kit)
        self.collections = Collections(db, self._index, allowances)
        self.vectors = Vectors(db, self._index, allowances, clock)
        patience = Patience(float(settings.grace_s), settings.tombstone_days * DAY_S)
        self.sweep = Sweep(db, kit.blobs, clock, patience, self.uploads.expire)
        self.inventory = Inventory(db, kit.blobs, show)

    def dependencies(self) -> dict[str, Provide]:
        return {
            "backups": known(self.backups),
            "batches": known(self.batches),
            "changes": known(self.changes),
            "collections": known(self.collections),
            "keys": known(self.keys),
            "records": known(self.records),
            "uploads": known(self.uploads),
            "vectors": known(self.vectors),
        }

    def body_limits(self) -> dict[str, int]:
        largest = self._settings.max_object_bytes
        return {"/api/v1/storage": largest, "/api/v1/backup": largest}

    def jobs(self) -> tuple[Job, ...]:
        return (
            Job("storage.sweep", self.sweep.run, cron="*/5 * * * *"),
            Job("storage.tidy", self.collections.tidy, cron="17 * * * *"),
            Job("storage.inventory", self.inventory.run, cron="41 4 * * 0"),
        )

    def commands(self) -> tuple[Command, ...]:
        text = "whether rows, blobs and sums fit together"
        return (Command("storage", text, _arguments, self._check),)

    async def close(self) -> None:
        await self._index.close()

    async def _check(self, options: argparse.Namespace) -> str:
        return told(await self.inventory.take(may_repair=options.repair))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check"])
    parser.add_argument("--repair", action="store_true", help="remove stray blobs, correct sums")
