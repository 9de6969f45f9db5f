"""A sealed body: a header that anybody may read, then what only the key opens.

    magic "INSV" | version | kind | algorithm | length of the rest of the header (2 bytes)
    key id, note, nonce, each with its length | ciphertext and tag

All of the header is bound, with everything that the caller binds. The note is what a reader needs
before it can open: of a record the ETag it replaced, of a vector its epoch.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from insula_vault.aead import ALGORITHMS, TAG_BYTES, XCHACHA20_POLY1305, Algorithm, opened
from insula_vault.encoding import LENGTH, pack, unpack
from insula_vault.errors import IntegrityError

MAGIC: Final = b"INSV"
VERSION: Final = 1
WHOLE: Final = 1
STREAM: Final = 2
FIELD_MAX_CHARS: Final = 128
# Key id, note, nonce.
FIELDS: Final = 3
_FIXED = struct.Struct(">4sBBBH")
FIXED_BYTES: Final = _FIXED.size
BOUND_LABEL = "insula-vault/1"


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before a ciphertext. ``nonce`` is the salt of a stream."""

    kind: int
    algorithm: Algorithm
    key_id: str
    note: str
    nonce: bytes

    def encode(self) -> bytes:
        if max(len(self.key_id), len(self.note)) > FIELD_MAX_CHARS:
            raise ValueError(f"Key id and note have at most {FIELD_MAX_CHARS} characters.")
        rest = pack(self.key_id, self.note, self.nonce)
        return _FIXED.pack(MAGIC, VERSION, self.kind, self.algorithm.code, len(rest)) + rest


def header_size(start: bytes) -> int:
    """How long the header is that begins with these ``FIXED_BYTES``."""
    if len(start) < FIXED_BYTES:
        raise IntegrityError("A sealed body is cut off in its header.")
    magic, version, kind, code, rest = _FIXED.unpack_from(start)
    if magic != MAGIC or version != VERSION or kind not in (WHOLE, STREAM):
        raise IntegrityError("This is no body sealed by this kit, or by a newer version of it.")
    if code not in ALGORITHMS:
        raise IntegrityError("A sealed body names an algorithm that does not exist.")
    return FIXED_BYTES + int(rest)


def read_header(sealed: bytes) -> tuple[Header, int]:
    """The header and its length. Nothing in it is proved before the body is open."""
    size = header_size(sealed)
    _, _, kind, code, _ = _FIXED.unpack_from(sealed)
    fields = unpack(sealed[FIXED_BYTES:size], FIELDS)
    if len(sealed) < size or len(fields) != FIELDS:
        raise IntegrityError("A sealed body is damaged in its header.")
    key_id, note, nonce = fields
    try:
        header = Header(kind, ALGORITHMS[code], key_id.decode(), note.decode(), nonce)
    except UnicodeDecodeError:
        raise IntegrityError("A sealed body is damaged in its header.") from None
    return header, size


def bound_bytes(header: bytes, bound: Sequence[str]) -> bytes:
    """The associated data: a list in which no two fields can run into each other."""
    return pack(BOUND_LABEL, header, *bound)


def seal(
    key: bytes,
    data: bytes,
    bound: Sequence[str],
    *,
    key_id: str,
    note: str = "",
    algorithm: Algorithm = XCHACHA20_POLY1305,
) -> bytes:
    """Encrypt ``data`` so that it opens only where key and bound values are the same."""
    nonce = os.urandom(algorithm.nonce_bytes)
    header = Header(WHOLE, algorithm, key_id, note, nonce).encode()
    return header + algorithm.seal(key, nonce, data, bound_bytes(header, bound))


def open_sealed(key: bytes, sealed: bytes, bound: Sequence[str]) -> bytes:
    """Decrypt what ``seal`` made; IntegrityError when anything of it was changed."""
    header, size = _read_whole(sealed)
    associated = bound_bytes(sealed[:size], bound)
    return header.algorithm.open(key, header.nonce, sealed[size:], associated)


class Series:
    """Opens bodies of one key that begin alike, up to their nonces, as ``open_sealed`` does.

    ``before`` and ``after`` are bound in each of them, on either side of a name of its own. What
    is the same in all is read and put together once.
    """

    def __init__(
        self, key: bytes, first: bytes, before: Sequence[str], after: Sequence[str]
    ) -> None:
        """``first`` is any of them. Nothing in it is proved before it is open."""
        header, self._size = _read_whole(first)
        self.key_id = header.key_id
        # With all lengths in it: what begins like this has the same header, but for the nonce.
        self._start = first[: self._size - header.algorithm.nonce_bytes]
        self._cipher = header.algorithm.keyed(key)
        # The header comes between the two, behind its length.
        self._before = pack(BOUND_LABEL, first[: self._size])[: -self._size]
        self._between = pack(*before)
        self._after = pack(*after)

    def has(self, sealed: bytes) -> bool:
        """Whether it is one of these, and long enough for one."""
        return sealed.startswith(self._start) and len(sealed) >= self._size + TAG_BYTES

    def open(self, bodies: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """Names and bodies, up to the first one that this has not.

        IntegrityError when anything of one was changed.
        """
        size, end = self._size, len(self._start)
        found = []
        for name, sealed in bodies:
            if not self.has(sealed):
                break
            own, header = name.encode(), sealed[:size]
            parts = (self._before, header, self._between, LENGTH.pack(len(own)), own, self._after)
            associated = b"".join(parts)
            found.append(opened(self._cipher, header[end:], sealed[size:], associated))
        return found


def _read_whole(sealed: bytes) -> tuple[Header, int]:
    """As ``read_header``, of what is no stream and has room for a tag."""
    header, size = read_header(sealed)
    is_whole = header.kind == WHOLE and len(header.nonce) == header.algorithm.nonce_bytes
    if not is_whole or len(sealed) < size + TAG_BYTES:
        raise IntegrityError("A sealed body is damaged, or is a stream.")
    return header, size
