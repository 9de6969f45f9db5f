"""Bodies of any size: up in parts that may be sent again, down piece by piece."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final

from insula_vault.errors import IntegrityError, VaultError
from insula_vault.wire import Call, Wire

UPLOADS = "/api/v1/storage/uploads"
PART_BYTES: Final = 8 * 1024 * 1024
PART_MAX_BYTES: Final = 64 * 1024 * 1024


def upload(
    wire: Wire, target: dict[str, Any], size_bytes: int, pieces: Iterable[bytes]
) -> dict[str, Any]:
    """Send a body of a known size; returns what the server says of it once it is whole.

    A part whose answer is lost is sent again. When the upload fails, what was sent is thrown away.
    """
    body = {**target, "size_bytes": size_bytes, "part_bytes": PART_BYTES}
    said = wire.json(Call("POST", UPLOADS, json=body, is_repeatable=False))
    path, part_bytes = f"{UPLOADS}/{said.get('id')}", said.get("part_bytes")
    if type(part_bytes) is not int or not 0 < part_bytes <= PART_MAX_BYTES:
        raise IntegrityError(f"The server asks for parts of {part_bytes} bytes.")
    try:
        checksum = _send_parts(wire, path, part_bytes, pieces)
        return wire.json(Call("POST", f"{path}/complete", json={"checksum": checksum}))
    except BaseException:
        # Best effort: it expires by itself.
        with suppress(VaultError):
            wire.send(Call("DELETE", path))
        raise


def _send_parts(wire: Wire, path: str, part_bytes: int, pieces: Iterable[bytes]) -> str:
    """Send all parts; returns the SHA-256 of the whole."""
    whole = hashlib.sha256()
    for number, part in enumerate(_parts(pieces, part_bytes), start=1):
        whole.update(part)
        headers = {
            "content-type": "application/octet-stream",
            "x-checksum": hashlib.sha256(part).hexdigest(),
        }
        wire.send(Call("PUT", f"{path}/parts/{number}", content=part, headers=headers))
    return whole.hexdigest()


def _parts(pieces: Iterable[bytes], part_bytes: int) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= part_bytes:
            yield bytes(held[:part_bytes])
            del held[:part_bytes]
    if held:
        yield bytes(held)


class ExactSource:
    """Reads a source of a promised size, and refuses one that is shorter or longer."""

    def __init__(self, source: BinaryIO, size_bytes: int) -> None:
        self._source = source
        self._left = size_bytes

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0 or (self._left > 0 and not data):
            raise ValueError("The source has not the size that was promised.")
        return data


class ChunkSource:
    """Reads what an iterator yields; it may give less than it is asked for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def read(self, size: int) -> bytes:
        while not self._held:
            held = next(self._chunks, None)
            if held is None:
                return b""
            self._held = held
        data, self._held = self._held[:size], self._held[size:]
        return data
