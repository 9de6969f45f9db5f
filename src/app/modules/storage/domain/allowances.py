"""How much each tier may keep, and whether something more fits."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from app.kernel.errors import Forbidden, OutOfSpace, TooLarge

Purpose: TypeAlias = Literal["record", "backup"]

GIB: Final = 1 << 30


class Allowance(msgspec.Struct, frozen=True):
    """Bytes of records (earlier revisions count) and of backups, and revisions of one record.

    ``None`` does not limit; 0 bytes is none of it at all.
    """

    record_bytes: int | None
    backup_bytes: int | None
    revisions: int


ALLOWANCES: Final[Mapping[str, Allowance]] = {
    "free": Allowance(0, 0, 0),
    "pro": Allowance(5 * GIB, 5 * GIB, 10),
    "power": Allowance(25 * GIB, 25 * GIB, 50),
    "team": Allowance(None, None, 100),
}
# An owner, whom no tier limits.
OWNER: Final = Allowance(None, None, 100)


class TierRequired(Forbidden):
    """The caller's tier has none of this."""

    title = "Tier required"


class QuotaExceeded(OutOfSpace):
    """It does not fit beside what is there; nothing was stored."""

    title = "Quota exceeded"


class ObjectTooLarge(TooLarge):
    """One body is larger than any may be."""

    title = "Object too large"


class Sums(msgspec.Struct, frozen=True):
    """Bytes that are kept, and bytes on their way in."""

    used_bytes: int
    reserved_bytes: int


def allowance_of(tier: str | None) -> Allowance:
    return OWNER if tier is None else ALLOWANCES[tier]


def quota_of(allowance: Allowance, purpose: Purpose) -> int | None:
    return allowance.record_bytes if purpose == "record" else allowance.backup_bytes


def require_tier(allowance: Allowance, purpose: Purpose) -> None:
    """Writing needs a tier that has some of it; reading and deleting never does."""
    if quota_of(allowance, purpose) == 0:
        what = "cloud storage" if purpose == "record" else "backups"
        raise TierRequired(f"Your tier has no {what}.", required_tier="pro")


def require_room(sums: Sums, needed_bytes: int, quota_bytes: int | None) -> None:
    """Admit ``needed_bytes`` more. What is above its quota already can only be read and deleted."""
    if quota_bytes is None:
        return
    if sums.used_bytes + sums.reserved_bytes + needed_bytes > quota_bytes:
        raise QuotaExceeded(
            "This does not fit: delete something (a record with ?purge=true, for its earlier "
            "revisions count), or take a larger tier.",
            used_bytes=sums.used_bytes,
            reserved_bytes=sums.reserved_bytes,
            quota_bytes=quota_bytes,
            needed_bytes=needed_bytes,
        )


def require_size(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise ObjectTooLarge(f"One body has {most_bytes} bytes at most.", max_bytes=most_bytes)
