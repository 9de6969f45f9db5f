"""Tables of storage."""

from app.modules.storage.models.accounts import AccountRow, KeyRow
from app.modules.storage.models.backups import BackupRow
from app.modules.storage.models.bodies import BodyRow, PartRow
from app.modules.storage.models.records import RecordRow, RevisionRow
from app.modules.storage.models.uploads import UploadRow
from app.modules.storage.models.vectors import CollectionRow, VectorRow

__all__ = [
    "AccountRow",
    "BackupRow",
    "BodyRow",
    "CollectionRow",
    "KeyRow",
    "PartRow",
    "RecordRow",
    "RevisionRow",
    "UploadRow",
    "VectorRow",
]
