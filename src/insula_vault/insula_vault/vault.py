"""A vault: records, backups and collections of one account, sealed on this device."""

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Self
from uuid import uuid4

import httpx

from insula_vault import account
from insula_vault.account import Account
from insula_vault.aead import XCHACHA20_POLY1305, Algorithm
from insula_vault.backups import Backups
from insula_vault.bodies import Bodies, Pointer, decode_pointer, may_be_pointer
from insula_vault.errors import Conflict, NotFound
from insula_vault.head import Head
from insula_vault.ledger import Change, Edit, Ledger
from insula_vault.records import INLINE, Entry, Record, check_name
from insula_vault.vectors import Collections
from insula_vault.wire import Session, Wire

DEFAULT_KEY_ID = "k1"
# Larger data goes into a body of its own.
INLINE_MAX_BYTES = 256 * 1024
# What ``get`` holds in memory; ``get_stream`` has no limit.
GET_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Put:
    """Write a record: a new one, or in place of the revision ``etag``."""

    table: str
    data: bytes
    record_id: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the revision ``etag`` of a record."""

    record_id: str
    etag: str


class Vault:
    """For one thread at a time. Every answer of the server is checked against the last head."""

    def __init__(
        self,
        wire: Wire,
        account: Account,
        *,
        state: str | None = None,
        key_id: str = DEFAULT_KEY_ID,
        algorithm: Algorithm = XCHACHA20_POLY1305,
    ) -> None:
        """``state`` is what ``save`` gave; without it, the first head that is shown is believed."""
        self.wire = wire
        self.account = account
        self.key_id = check_name("A key id", key_id)
        self.ledger = Ledger(wire, account.root, account.user_id, state, algorithm)
        self.bodies = Bodies(wire, account.root, account.user_id)

    @property
    def head(self) -> Head | None:
        """What was verified last. Compare its ``fingerprint`` with another device's."""
        return self.ledger.state.head

    @property
    def session(self) -> Session | None:
        """The tokens, as they are now."""
        return self.wire.session

    @property
    def backups(self) -> Backups:
        return Backups(self.wire, self.account, self.ledger, self.key_id)

    @property
    def collections(self) -> Collections:
        return Collections(self.wire, self.account, self.ledger, self.key_id)

    def sync(self) -> builtins.list[Change]:
        """Take over what other devices did, and say what it was."""
        return [one for one in self.ledger.sync() if not one.entry.table.startswith("_")]

    def list(self, table: str | None = None) -> builtins.list[Entry]:
        """Live records as of the last verified head, by id. Asks the server nothing."""
        entries = self.ledger.state.entries.values()
        wanted = [
            entry
            for entry in entries
            if entry.table == table or (table is None and not entry.table.startswith("_"))
        ]
        return sorted(wanted, key=lambda entry: entry.id)

    def get(self, record_id: str) -> Record:
        """A record; NotFound when there is none, IntegrityError when there must be one."""
        entry, payload = self.ledger.read(record_id)
        pointer = decode_pointer(payload)
        if pointer is None:
            return _record(entry, payload[1:])
        if pointer.size_bytes > GET_MAX_BYTES:
            raise ValueError(f"Use get_stream: the record has {pointer.size_bytes} bytes.")
        return _record(entry, b"".join(self.bodies.open(pointer)))

    def get_stream(self, record_id: str, sink: BinaryIO) -> Entry:
        """Write a record's data to ``sink``.

        What is written is authentic. It is complete only when this returns.
        """
        entry, payload = self.ledger.read(record_id)
        pointer = decode_pointer(payload)
        for chunk in [payload[1:]] if pointer is None else self.bodies.open(pointer):
            sink.write(chunk)
        return entry

    def put(self, table: str, data: bytes, *, record_id: str = "", etag: str = "") -> Entry:
        """Create a record, or replace the revision ``etag``; Conflict when that is not current."""
        if len(data) > INLINE_MAX_BYTES:
            source = BytesIO(data)
            return self.put_stream(table, source, len(data), record_id=record_id, etag=etag)
        (entry,) = self.write([Put(table, data, record_id, etag)])
        return _there(entry)

    def put_stream(
        self,
        table: str,
        source: BinaryIO,
        size_bytes: int,
        *,
        record_id: str = "",
        etag: str = "",
    ) -> Entry:
        """As ``put``, of data that is read from ``source`` and never held whole in memory."""
        name = check_name("A table", table)
        record_id = record_id or str(uuid4())
        # Asked first, since a conflict after the upload would be one after much traffic.
        self.ledger.sync()
        self.ledger.require_current({record_id: etag})
        former = self._pointer_of(record_id)
        pointer = self.bodies.store(source, size_bytes, self.key_id)
        try:
            edit = Edit(record_id, name, self.key_id, etag, pointer.encode())
            (entry,) = self.ledger.commit([edit])
        except Conflict:
            self.bodies.discard(pointer)
            raise
        self._discard([former])
        return _there(entry)

    def delete(self, record_id: str, etag: str) -> None:
        """Delete the revision ``etag``; Conflict when that is not current."""
        self.write([Delete(record_id, etag)])

    def write(self, changes: Sequence[Put | Delete]) -> builtins.list[Entry | None]:
        """Make all changes or none. Returns the records as they are then."""
        edits = [self._edit(change) for change in changes]
        self.ledger.catch_up()
        former = [self._pointer_of(edit.id) for edit in edits]
        entries = self.ledger.commit(edits)
        self._discard(former)
        return entries

    def save(self) -> str:
        """What this device knows, as JSON: give it to the next ``Vault`` on this device, only."""
        return self.ledger.state.to_json(self.account.user_id)

    def close(self) -> None:
        self.wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _edit(self, change: Put | Delete) -> Edit:
        if isinstance(change, Delete):
            return Edit(change.record_id, "", "", change.etag, None)
        if len(change.data) > INLINE_MAX_BYTES:
            raise ValueError(f"Use put_stream for more than {INLINE_MAX_BYTES} bytes.")
        record_id, table = change.record_id or str(uuid4()), check_name("A table", change.table)
        return Edit(record_id, table, self.key_id, change.etag, INLINE + change.data)

    def _pointer_of(self, record_id: str) -> Pointer | None:
        """The large body that a record has, so that it can go when the record does."""
        entry = self.ledger.state.entries.get(record_id)
        if entry is None or not may_be_pointer(entry):
            return None
        try:
            return decode_pointer(self.ledger.read(record_id)[1])
        except NotFound:
            return None

    def _discard(self, pointers: Sequence[Pointer | None]) -> None:
        for pointer in pointers:
            if pointer is not None:
                self.bodies.discard(pointer)


def register(
    base_url: str,
    email: str,
    secret: str,
    *,
    device_name: str | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Vault:
    """Make an account. Whoever loses the secret loses what is sealed: nobody can help them."""
    wire = Wire(base_url, transport=transport)
    return Vault(wire, account.register(wire, email, secret, device_name))


def login(
    base_url: str,
    email: str,
    secret: str,
    *,
    device_name: str | None = None,
    state: str | None = None,
    transport: httpx.BaseTransport | None = None,
) -> Vault:
    """Sign in. Give the ``state`` that this device saved: it is what finds a lying server."""
    wire = Wire(base_url, transport=transport)
    return Vault(wire, account.login(wire, email, secret, device_name), state=state)


def _record(entry: Entry, data: bytes) -> Record:
    return Record(entry.id, entry.table, entry.key_id, entry.etag, data)


def _there(entry: Entry | None) -> Entry:
    if entry is None:
        raise AssertionError("A record that was put is there.")
    return entry
