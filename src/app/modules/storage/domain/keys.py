"""What the keys of a client seal, and how much a user has."""

import msgspec

from app.modules.storage.domain.allowances import Allowance, Sums


class SealingKey(msgspec.Struct, frozen=True):
    """One of the client's keys: live records that it seals, and their bytes."""

    key_id: str
    records: int
    size_bytes: int
    is_retired: bool


class Standing(msgspec.Struct, frozen=True):
    """What there is, and what there may be."""

    records: Sums
    backups: Sums
    allowance: Allowance
