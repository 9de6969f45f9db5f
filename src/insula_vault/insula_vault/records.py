"""One record: how it is named, what it is bound to, and what lies in it."""

import re
from dataclasses import dataclass
from typing import Final

from insula_vault.aead import XCHACHA20_POLY1305, Algorithm
from insula_vault.encoding import sha256
from insula_vault.envelope import open_sealed, read_header, seal
from insula_vault.errors import IntegrityError
from insula_vault.keys import RootKey

NAME_SHAPE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ETAG_SHAPE = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{8})")
_DIGEST_SHAPE = re.compile(r"[0-9a-f]{64}")
INLINE: Final = b"\0"
ELSEWHERE: Final = b"\1"


@dataclass(frozen=True, slots=True)
class Binding:
    """What a body is bound to. ``previous_etag`` is empty in a record that is new."""

    user_id: str
    record_id: str
    table: str
    key_id: str
    previous_etag: str = ""

    def fields(self) -> tuple[str, ...]:
        return (
            "record",
            self.user_id,
            self.record_id,
            self.table,
            self.key_id,
            self.previous_etag,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A live record as the server lists it. ``checksum`` is the SHA-256 of the sealed body."""

    id: str
    table: str
    key_id: str
    etag: str
    checksum: str
    size_bytes: int

    def facts(self) -> tuple[str, str, str]:
        """What the tree vouches for.

        The ETag is not among them: its first half is a counter of the server's, which a device
        does not know before it has written, and its second half is in the checksum.
        """
        return self.checksum, self.table, self.key_id


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was opened."""

    id: str
    table: str
    key_id: str
    etag: str
    data: bytes


def seal_record(
    root: RootKey, binding: Binding, payload: bytes, algorithm: Algorithm = XCHACHA20_POLY1305
) -> bytes:
    """Seal with the key of ``binding.key_id``."""
    return seal(
        record_key(root, binding.key_id),
        payload,
        binding.fields(),
        key_id=binding.key_id,
        note=binding.previous_etag,
        algorithm=algorithm,
    )


def open_record(root: RootKey, binding: Binding, sealed: bytes) -> bytes:
    """Open what ``seal_record`` made of the same binding; IntegrityError otherwise."""
    return open_sealed(record_key(root, binding.key_id), sealed, binding.fields())


def open_entry(root: RootKey, user_id: str, entry: Entry, sealed: bytes) -> bytes:
    """Open the body of a listed record: also its place in the line of revisions must fit."""
    if sha256(sealed) != entry.checksum:
        raise IntegrityError(f"The server sent another body of record {entry.id} than it lists.")
    previous = read_header(sealed)[0].note
    if previous and revision(previous) + 1 != revision(entry.etag):
        raise IntegrityError(
            f"Record {entry.id} is shown as revision {entry.etag}, and was written on {previous}."
        )
    binding = Binding(user_id, entry.id, entry.table, entry.key_id, previous)
    return open_record(root, binding, sealed)


def record_key(root: RootKey, key_id: str) -> bytes:
    return root.derive("record", key_id)


def revision(etag: str) -> int:
    """The number in an ETag."""
    found = _ETAG_SHAPE.fullmatch(etag)
    if found is None:
        raise IntegrityError(f"{etag!r} is no ETag of a record.")
    return int(found[1])


def quoted(etag: str) -> str:
    """An ETag as conditions have it."""
    return f'"{etag}"'


def unquoted(etag: object) -> str:
    """An ETag of an answer, which may have its quotes."""
    return etag.strip('"') if isinstance(etag, str) else ""


def check_etag(etag: str, checksum: str) -> None:
    """IntegrityError unless the ETag ends as the digest begins."""
    revision(etag)
    if not _DIGEST_SHAPE.fullmatch(checksum) or not etag.endswith(f"-{checksum[:8]}"):
        raise IntegrityError(f"The ETag {etag!r} is not that of a body {checksum!r}.")


def check_name(what: str, name: str) -> str:
    """Refuse a table or key id that the server would refuse. ``_`` begins the kit's own."""
    if not NAME_SHAPE.fullmatch(name) or name.startswith("_"):
        raise ValueError(
            f"{what} has 1 to 64 characters of A-Z a-z 0-9 . _ - and does not begin with _."
        )
    return name
