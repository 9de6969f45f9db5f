"""HTTP of storage."""

from app.modules.storage.controllers.backups import BackupController
from app.modules.storage.controllers.collections import CollectionController
from app.modules.storage.controllers.records import RecordController
from app.modules.storage.controllers.sync import SyncController
from app.modules.storage.controllers.uploads import UploadController
from app.modules.storage.controllers.vectors import VectorController

__all__ = [
    "BackupController",
    "CollectionController",
    "RecordController",
    "SyncController",
    "UploadController",
    "VectorController",
]
