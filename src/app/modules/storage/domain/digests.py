"""What a sender says about its bytes, and whether they are those."""

import base64
import binascii
import hmac
import re
from typing import Final

import msgspec

from app.kernel.errors import Invalid

DIGEST_BYTES: Final = 32
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
# RFC 9530 section 2: a dictionary of structured fields, of which we know one member.
_MEMBER: Final = re.compile(r"\s*([a-z0-9-]+)=:([A-Za-z0-9+/=]*):\s*")
MEMBERS_LIMIT: Final = 8


class DigestMalformed(Invalid):
    """A digest is SHA-256: 64 hexadecimal digits, or ``sha-256=:base64:``."""

    title = "Digest malformed"


class DigestMismatch(Invalid):
    """The bytes that came are not those that were announced; nothing was stored."""

    title = "Digest mismatch"


class BodyTruncated(Invalid):
    """Fewer or more bytes came than were announced; nothing was stored."""

    title = "Body truncated"


class Expected(msgspec.Struct, frozen=True):
    """What a sender says: the size in bytes, and each SHA-256 it gave, as 64 hex digits."""

    size_bytes: int
    sha256: tuple[str, ...] = ()

    def verify(self, size_bytes: int, sha256: str) -> None:
        """Compare with what came, digests in constant time."""
        self.verify_size(size_bytes)
        if not all(same(sha256, given) for given in self.sha256):
            raise DigestMismatch("The SHA-256 of the bytes that came is another one.")

    def verify_size(self, size_bytes: int) -> None:
        if size_bytes != self.size_bytes:
            raise BodyTruncated(f"{self.size_bytes} bytes were announced, and {size_bytes} came.")


def same(one: str, other: str) -> bool:
    """Whether two hexadecimal digests are equal, in constant time."""
    return hmac.compare_digest(one.lower().encode(), other.lower().encode())


def parse_hex(text: str) -> str:
    if _HEX.fullmatch(text) is None:
        raise DigestMalformed("A checksum is the SHA-256, as 64 hexadecimal digits.")
    return text.lower()


def parse_content_digest(text: str) -> str | None:
    """The SHA-256 of ``Content-Digest``, as hex; ``None`` when it names other algorithms only."""
    for member in text.split(",", MEMBERS_LIMIT)[:MEMBERS_LIMIT]:
        found = _MEMBER.fullmatch(member)
        if found is None:
            raise DigestMalformed("Content-Digest is written `sha-256=:<base64>:`.")
        if found[1] == "sha-256":
            return _unbase64(found[2]).hex()
    return None


def content_digest(sha256: str) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _unbase64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != DIGEST_BYTES:
        raise DigestMalformed("Content-Digest's sha-256 is 32 bytes as base64.")
    return raw
