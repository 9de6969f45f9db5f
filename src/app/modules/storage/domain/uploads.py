"""Upload sessions: what they become, how they are cut into parts, and when they end."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from app.kernel.errors import Conflict, Gone, Invalid, NotBuilt, NotFound, TooMany
from app.modules.storage.domain.allowances import Purpose
from app.modules.storage.domain.backups import BackupWrite
from app.modules.storage.domain.bodies import Part
from app.modules.storage.domain.conditions import Condition

OPEN: Final = "open"
COMMITTED: Final = "committed"
ABORTED: Final = "aborted"
EXPIRED: Final = "expired"

PARTS_LIMIT: Final = 10_000
LEAST_PART_BYTES: Final = 65_536
MOST_PART_BYTES: Final = 2**30
# Open sessions of one user.
SESSIONS_LIMIT: Final = 256
# Links to one part that may be used at the same time: each could bring as many bytes.
LINKS_LIMIT: Final = 4
# How many missing parts an error names.
NAMED_LIMIT: Final = 1000


class NoSuchUpload(NotFound):
    """No such session, or somebody else's."""

    title = "No such upload"


class UploadGone(Gone):
    """The session was aborted, or has expired; its bytes are gone."""

    title = "Upload gone"


class UploadCommitted(Conflict):
    """The session has become what it was made for, and takes nothing more."""

    title = "Upload committed"


class PartsMissing(Conflict):
    """Not every part is there. ``missing`` has their numbers, the first ones of many."""

    title = "Parts missing"


class PartsChanged(Conflict):
    """Somebody sent a part again while the session was being completed."""

    title = "Parts changed"


class PartMalformed(Invalid):
    """There is no part of this number, or its size is another one."""

    title = "Part malformed"


class PartsTooMany(Invalid):
    """The parts are too small for a body of this size."""

    title = "Too many parts"


class UploadsTooMany(TooMany):
    """The caller has too many open sessions."""

    title = "Too many uploads"


class LinksTooMany(Conflict):
    """The part has as many links already as can be used at the same time."""

    title = "Too many links"


class LinksMissing(NotBuilt):
    """Bytes can be sent to a bucket directly, and this installation has none."""

    title = "No direct uploads"


class RecordTarget(msgspec.Struct, frozen=True, tag="record"):
    """The record that an upload becomes a revision of."""

    id: UUID
    table: str
    key_id: str | None
    condition: Condition | None


class BackupTarget(msgspec.Struct, frozen=True, tag="backup"):
    """The backup that an upload becomes."""

    write: BackupWrite


Target: TypeAlias = RecordTarget | BackupTarget


class Layout(msgspec.Struct, frozen=True):
    """How a body lies in parts: all of one size, the last one has the rest."""

    size_bytes: int
    part_bytes: int

    @property
    def part_count(self) -> int:
        return -(-self.size_bytes // self.part_bytes)

    def size_of(self, number: int) -> int:
        """Of the part with this number, counted from 1."""
        if not 1 <= number <= self.part_count:
            raise PartMalformed(f"Parts have the numbers 1 to {self.part_count}.")
        if number < self.part_count:
            return self.part_bytes
        return self.size_bytes - (number - 1) * self.part_bytes

    def require_size(self, number: int, size_bytes: int) -> None:
        if size_bytes != (size := self.size_of(number)):
            raise PartMalformed(f"Part {number} has {size} bytes, not {size_bytes}.")

    def require_all(self, numbers: Iterable[int]) -> None:
        there = set(numbers)
        missing = [one for one in range(1, self.part_count + 1) if one not in there]
        if missing:
            raise PartsMissing(
                f"{len(missing)} parts are missing; send them and complete again.",
                missing=missing[:NAMED_LIMIT],
            )


class UploadOrder(msgspec.Struct, frozen=True):
    """A body that is to come. ``sha256`` is empty where its sender does not say."""

    target: Target
    size_bytes: int
    part_bytes: int | None = None
    sha256: str = ""


class Completion(msgspec.Struct, frozen=True):
    """What its sender says in the end; a condition replaces the one from the beginning."""

    sha256: str = ""
    condition: Condition | None = None


class Upload(msgspec.Struct, frozen=True):
    """A session and those of its parts that are there."""

    id: UUID
    user_id: UUID
    state: str
    target: Target
    layout: Layout
    sha256: str
    expires_at: datetime
    parts: Sequence[Part] = ()


def purpose_of(target: Target) -> Purpose:
    return "record" if isinstance(target, RecordTarget) else "backup"


def layout_of(size_bytes: int, asked_bytes: int | None, usual_bytes: int) -> Layout:
    """Cut a body as its sender asks, else into parts of the usual size, or larger ones."""
    if asked_bytes is None:
        least = -(-size_bytes // PARTS_LIMIT)
        return Layout(size_bytes, max(usual_bytes, least))
    layout = Layout(size_bytes, asked_bytes)
    if layout.part_count > PARTS_LIMIT:
        raise PartsTooMany(f"An upload has {PARTS_LIMIT} parts at most; make them larger.")
    return layout


def require_open(state: str, expires_at: datetime, now: datetime) -> None:
    """``UploadGone`` after the end, ``UploadCommitted`` after the commit."""
    if state == COMMITTED:
        raise UploadCommitted("This upload is complete; change what it has become.")
    if state != OPEN or expires_at <= now:
        raise gone()


def arrivable(links: Iterable[Part], kept: Iterable[Part]) -> list[Part]:
    """The linked parts that may still become theirs: begun after what is there of their number.

    Ids tell the order, because they are made from the time.
    """
    newest = {part.number: part.id for part in kept}
    return [part for part in links if part.number not in newest or part.id > newest[part.number]]


def gone() -> UploadGone:
    return UploadGone("This upload was aborted, or has expired; begin another one.")
