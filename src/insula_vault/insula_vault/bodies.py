"""Bodies that are too large for a batch: sealed streams beside the record that points to them.

A body lies under an id that is used once and is bound to it. The pointer is an ordinary record:
whoever replaces it, replaces the body, and the head vouches for both.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Final, cast
from uuid import uuid4

from insula_vault.encoding import to_json
from insula_vault.envelope import FIXED_BYTES
from insula_vault.errors import IntegrityError, NotFound, VaultError
from insula_vault.feed import BODY_TABLE
from insula_vault.keys import RootKey
from insula_vault.ledger import RECORDS
from insula_vault.records import ELSEWHERE, Binding, Entry, quoted, record_key, unquoted
from insula_vault.stream import open_stream, seal_stream, sealed_size
from insula_vault.uploads import ChunkSource, ExactSource, upload
from insula_vault.wire import Call, Wire

# Pointers have one size: a record of another size need not be opened to know that it is none.
POINTER_BYTES: Final = 256
_LENGTHS_NONCE_TAG = 3 * 4 + 24 + 16
_SMALLEST_NONCE = 12
_ETAG_MAX_CHARS = 27


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a large body lies. ``size_bytes`` is that of the data, not of what is sealed."""

    body_id: str
    etag: str
    key_id: str
    size_bytes: int

    def encode(self) -> bytes:
        return ELSEWHERE + to_json(self).ljust(POINTER_BYTES)


def decode_pointer(payload: bytes) -> Pointer | None:
    """The pointer in a payload, if there is one."""
    return Pointer(**json.loads(payload[1:])) if payload[:1] == ELSEWHERE else None


def may_be_pointer(entry: Entry) -> bool:
    """Whether a record has the size of a pointer."""
    fixed = FIXED_BYTES + _LENGTHS_NONCE_TAG + len(entry.key_id) + 1 + POINTER_BYTES
    return fixed - _SMALLEST_NONCE <= entry.size_bytes <= fixed + _ETAG_MAX_CHARS


class Bodies:
    """Moves large bodies."""

    def __init__(self, wire: Wire, root: RootKey, user_id: str) -> None:
        self._wire = wire
        self._root = root
        self._user_id = user_id

    def store(self, source: BinaryIO, size_bytes: int, key_id: str) -> Pointer:
        """Seal and send a source of ``size_bytes`` bytes; nothing points to it yet."""
        body_id = str(uuid4())
        binding = Binding(self._user_id, body_id, BODY_TABLE, key_id)
        # Reading is all that is asked of it.
        exact = cast("BinaryIO", ExactSource(source, size_bytes))
        key = record_key(self._root, key_id)
        pieces = seal_stream(key, exact, binding.fields(), key_id=key_id)
        target = {
            "target": "record",
            "id": body_id,
            "table": BODY_TABLE,
            "key_id": key_id,
            "if_none_match": "*",
        }
        said = upload(self._wire, target, sealed_size(size_bytes, key_id=key_id), pieces)
        return Pointer(body_id, unquoted(said.get("etag")), key_id, size_bytes)

    def open(self, pointer: Pointer) -> Iterator[bytes]:
        """The data, chunk by chunk; IntegrityError at the end when some of it is missing."""
        binding = Binding(self._user_id, pointer.body_id, BODY_TABLE, pointer.key_id)
        key = record_key(self._root, pointer.key_id)
        return open_stream(lambda _: key, self._sealed(pointer.body_id), binding.fields())

    def copy(self, pointer: Pointer, key_id: str) -> Pointer:
        """The same data under another key, from the server to the server; nothing lies here."""
        source = cast("BinaryIO", ChunkSource(self.open(pointer)))
        return self.store(source, pointer.size_bytes, key_id)

    def discard(self, pointer: Pointer) -> None:
        """Delete a body for good that nothing points to. What fails here, ``sweep`` finds."""
        path, headers = f"{RECORDS}/{pointer.body_id}", {"if-match": quoted(pointer.etag)}
        with suppress(VaultError):
            self._wire.send(Call("DELETE", path, headers=headers, params={"purge": "true"}))

    def _sealed(self, body_id: str) -> Iterator[bytes]:
        try:
            yield from self._wire.stream(f"{RECORDS}/{body_id}")
        except NotFound:
            raise IntegrityError(
                f"A record that is under the head points to body {body_id}, which the server hides."
            ) from None
