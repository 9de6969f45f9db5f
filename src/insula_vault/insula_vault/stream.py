"""Large bodies, sealed and opened in chunks of 64 KiB without being held in memory.

STREAM (Hoang, Reyhanitabar, Rogaway, Vizar 2015): each chunk's nonce is its number and whether it
is the last one. Chunks that were left out, doubled, moved, cut off or taken from another stream do
not open. A stream has a key of its own, made of a random salt, so that numbers may begin at 0.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Final

from insula_vault.aead import TAG_BYTES, XCHACHA20_POLY1305, Algorithm
from insula_vault.envelope import (
    FIXED_BYTES,
    STREAM,
    Header,
    bound_bytes,
    header_size,
    read_header,
)
from insula_vault.errors import IntegrityError
from insula_vault.keys import hkdf

CHUNK_BYTES: Final = 65_536
SALT_BYTES: Final = 32
CHUNKS_MAX: Final = 2**32
_PLACE = struct.Struct(">I?")


def sealed_size(size_bytes: int, *, key_id: str, note: str = "") -> int:
    """How long a stream of ``size_bytes`` is when it is sealed."""
    chunks = max(1, -(-size_bytes // CHUNK_BYTES))
    header = Header(STREAM, XCHACHA20_POLY1305, key_id, note, bytes(SALT_BYTES)).encode()
    return len(header) + size_bytes + chunks * TAG_BYTES


def seal_stream(
    key: bytes,
    source: BinaryIO,
    bound: Sequence[str],
    *,
    key_id: str,
    note: str = "",
    algorithm: Algorithm = XCHACHA20_POLY1305,
) -> Iterator[bytes]:
    """Read ``source`` to its end; yield the header, then sealed chunks."""
    salt = os.urandom(SALT_BYTES)
    header = Header(STREAM, algorithm, key_id, note, salt).encode()
    chunk_key, associated = _stream_key(key, salt, algorithm), bound_bytes(header, bound)
    yield header
    number, chunk = 0, _read_chunk(source)
    while True:
        following = _read_chunk(source)
        nonce = _nonce(algorithm, number, is_last=not following)
        yield algorithm.seal(chunk_key, nonce, chunk, associated)
        if not following:
            return
        number, chunk = number + 1, following


def open_stream(
    key_of: Callable[[Header], bytes], pieces: Iterable[bytes], bound: Sequence[str]
) -> Iterator[bytes]:
    """Open a stream that comes in any pieces; ``key_of`` gives the key for its header.

    What is yielded is authentic. Only when the iterator ends is it complete: a stream that was
    cut off raises IntegrityError there.
    """
    buffer = _Buffer(pieces)
    start = buffer.take(FIXED_BYTES)
    raw = start + buffer.take(header_size(start) - FIXED_BYTES)
    header, _ = read_header(raw)
    if header.kind != STREAM or len(header.nonce) != SALT_BYTES:
        raise IntegrityError("A sealed body is no stream where one should be.")
    algorithm = header.algorithm
    key = _stream_key(key_of(header), header.nonce, algorithm)
    associated = bound_bytes(raw, bound)
    for number in range(CHUNKS_MAX):
        sealed = buffer.take(CHUNK_BYTES + TAG_BYTES)
        is_last = buffer.is_empty()
        nonce = _nonce(algorithm, number, is_last=is_last)
        yield algorithm.open(key, nonce, sealed, associated)
        if is_last:
            return
    raise IntegrityError("A stream is longer than one can be.")


class _Buffer:
    """Cuts pieces of any size into those that are asked for."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._held = bytearray()

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes, or what is left of them."""
        while len(self._held) < size and self._fill():
            pass
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def is_empty(self) -> bool:
        return not self._held and not self._fill()

    def _fill(self) -> bool:
        """Get another piece with something in it; False at the end."""
        for piece in self._pieces:
            if piece:
                self._held += piece
                return True
        return False


def _stream_key(key: bytes, salt: bytes, algorithm: Algorithm) -> bytes:
    return hkdf(key, "stream", algorithm.name, salt=salt)


def _nonce(algorithm: Algorithm, number: int, *, is_last: bool) -> bytes:
    if number >= CHUNKS_MAX:
        raise ValueError(f"A stream has at most {CHUNKS_MAX} chunks.")
    place = _PLACE.pack(number, is_last)
    return bytes(algorithm.nonce_bytes - len(place)) + place


def _read_chunk(source: BinaryIO) -> bytes:
    """A whole chunk, also of a source that gives less than it is asked for."""
    parts, missing = [], CHUNK_BYTES
    while missing and (part := source.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
