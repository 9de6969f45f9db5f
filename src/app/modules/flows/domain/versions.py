"""Versions: how a flow is kept, and which number the next one has."""

import re
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from app.kernel.errors import Conflict
from app.modules.flows.domain.definitions import Flow

VERSION: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}")
PARTS: Final = 3
PART_LIMIT: Final = 999_999_999

Source: TypeAlias = Literal["file", "api"]


class VersionsSpent(Conflict):
    """No higher version can be written."""

    title = "Versions spent"


class Stored(msgspec.Struct, frozen=True):
    """A version of a flow, and whose it is. The installation's, of a file, are created by nobody.

    ``created_at`` is when the flow was made, ``updated_at`` when this version of it was.
    """

    flow: Flow
    source: Source
    created_by: UUID | None
    created_at: datetime
    updated_at: datetime


class Version(msgspec.Struct, frozen=True):
    """One that there is, or was."""

    version: str
    created_at: datetime


_decode = msgspec.json.Decoder(Flow).decode


def decode(body: bytes) -> Flow:
    """What ``encode`` made of a flow."""
    return _decode(body)


def encode(flow: Flow) -> bytes:
    """The document as JSON, the same bytes whatever the order in which it was given."""
    return msgspec.json.encode(flow, order="deterministic")


def definition_id(user_id: UUID | None, body: bytes) -> UUID:
    """The id of what says this and belongs to this user: a UUIDv8 (RFC 9562, section 5.8)."""
    owner = b"" if user_id is None else user_id.bytes
    digest = int.from_bytes(sha256(b"%d:" % len(owner) + owner + body).digest()[:16], "big")
    free = digest & ~(0xF << 76) & ~(0x3 << 62)
    return UUID(int=free | 0x8 << 76 | 0x2 << 62)


def rank(version: str) -> tuple[int, ...]:
    """What versions are compared by: ``1.0`` is as high as ``1.0.0``."""
    parts = tuple(int(part) for part in version.split("."))
    return parts + (0,) * (PARTS - len(parts))


def next_version(wanted: str, highest: str) -> str:
    """``wanted`` where it is above ``highest``, else ``highest`` with its last part raised."""
    if rank(wanted) > rank(highest):
        return wanted
    *others, last = (int(part) for part in highest.split("."))
    if last >= PART_LIMIT:
        text = f"There is nothing above version {highest}. Give a version that is higher."
        raise VersionsSpent(text)
    return ".".join(str(part) for part in (*others, last + 1))
