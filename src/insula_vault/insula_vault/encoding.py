"""Bytes and text, each in one form only."""

import base64
import binascii
import hashlib
import json
import struct
from dataclasses import asdict
from typing import Any, Final
from uuid import UUID

from insula_vault.errors import IntegrityError

LENGTH: Final = struct.Struct(">I")


def pack(*fields: bytes | str) -> bytes:
    """Join fields with their lengths before them: no two lists of fields give the same bytes."""
    data = [field.encode() if isinstance(field, str) else field for field in fields]
    return b"".join([part for one in data for part in (LENGTH.pack(len(one)), one)])


def unpack(data: bytes, limit: int) -> list[bytes]:
    """Take ``pack`` apart again; IntegrityError when it was not made by it, or of more fields."""
    fields: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        start = at + LENGTH.size
        if start > end:
            raise IntegrityError("What the server sent is damaged: a length is cut off.")
        at = start + int.from_bytes(data[at:start], "big")
        if at > end:
            raise IntegrityError("What the server sent is damaged: a field is cut off.")
        if len(fields) == limit:
            raise IntegrityError(f"What the server sent has more than {limit} fields.")
        fields.append(data[start:at])
    return fields


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: object) -> bytes:
    """Read base64 of the server; IntegrityError when it is none."""
    if not isinstance(text, str):
        raise IntegrityError("The server sent no base64 where there should be some.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise IntegrityError("The server sent no base64 where there should be some.") from None


def to_json(value: Any) -> bytes:
    """A dataclass as JSON, the same bytes for equal values."""
    return json.dumps(asdict(value), sort_keys=True, separators=(",", ":")).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def derived_id(material: bytes) -> str:
    """A UUID that is made of key material instead of chance (version 8, RFC 9562)."""
    fixed = bytearray(material[:16])
    fixed[6] = fixed[6] & 0x0F | 0x80
    fixed[8] = fixed[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(fixed)))
