"""Where a reader of the feed has got to, signed, so that it can only be what we gave out."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection, Iterable
from typing import Final
from uuid import UUID

import msgspec

from app.kernel.errors import Gone, Invalid

# In front of what is signed: a cursor of another version, or of another list, is none of ours.
_LABEL: Final = b"insula-changes-1\0"
_MAC_BYTES: Final = 32
_LIMIT_CHARS: Final = 256


class CursorInvalid(Invalid):
    """It was not given to this user, or not for this kind of question."""

    title = "Cursor invalid"


class CursorExpired(Gone):
    """Deletions since then are forgotten: what the reader has may be there no more."""

    title = "Cursor expired"


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Everything up to ``seq`` is known to the reader.

    ``epoch`` names the numbering, empty where there was nothing yet. ``floor_seq`` is the
    account's when the reader was last known to have missed nothing. ``kinds`` is what it asks for.
    """

    epoch: str
    seq: int
    floor_seq: int
    kinds: str


class Feed(msgspec.Struct, frozen=True):
    """An account's numbering: its last change, and up to where tombstones are gone."""

    epoch: str
    seq: int
    floor_seq: int


def seal(cursor: Cursor, user_id: UUID, key: bytes) -> str:
    payload = msgspec.msgpack.encode(cursor)
    return _encode(_mac(payload, user_id, key) + payload)


def unseal(text: str, user_id: UUID, keys: Iterable[bytes]) -> Cursor:
    """Read a cursor that one of the keys has signed for this user; in constant time."""
    raw = _decode(text)
    mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not _is_signed(mac, payload, user_id, keys):
        raise CursorInvalid("The cursor is not one that was given to you.")
    return msgspec.msgpack.decode(payload, type=Cursor)


def kinds_of(kinds: Collection[str]) -> str:
    return ",".join(sorted(kinds))


def resume(cursor: Cursor | None, kinds: str, feed: Feed) -> int:
    """After which change to go on.

    A reader that began before tombstones were removed, and had not got to them, would keep what is
    deleted: ``CursorExpired``. One that began afterwards needs none of them.
    """
    if cursor is None or not cursor.epoch:
        return 0
    if cursor.kinds != kinds:
        raise CursorInvalid(f"The cursor is of a feed of {cursor.kinds}; begin without one.")
    has_missed = cursor.seq < feed.floor_seq and cursor.floor_seq < feed.floor_seq
    if cursor.epoch != feed.epoch or cursor.seq > feed.seq or has_missed:
        raise CursorExpired("Begin without a cursor, and drop what is not there any more.")
    return cursor.seq


def _is_signed(mac: bytes, payload: bytes, user_id: UUID, keys: Iterable[bytes]) -> bool:
    found = [hmac.compare_digest(mac, _mac(payload, user_id, key)) for key in keys]
    return any(found)


def _mac(payload: bytes, user_id: UUID, key: bytes) -> bytes:
    return hmac.digest(key, _LABEL + user_id.bytes + payload, hashlib.sha256)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Each cursor is written in one way only."""
    try:
        raw = base64.urlsafe_b64decode(text[:_LIMIT_CHARS] + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) <= _MAC_BYTES or _encode(raw) != text:
        raise CursorInvalid("The cursor is not one that was given to you.")
    return raw
