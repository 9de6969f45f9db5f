"""Backups: one sealed stream each, numbered upwards."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from insula_vault.account import Account
from insula_vault.encoding import to_json
from insula_vault.envelope import Header
from insula_vault.errors import Conflict, IntegrityError, NotFound, Unreachable
from insula_vault.ledger import Edit, Ledger
from insula_vault.records import INLINE, record_key
from insula_vault.stream import open_stream, seal_stream, sealed_size
from insula_vault.uploads import ExactSource, upload
from insula_vault.wire import Call, Wire

BACKUP = "/api/v1/backup"
BACKUP_TABLE = "_backup"
RACES_MAX = 8


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup. ``timestamp_ms`` is the clock of the device that made it, ``size_bytes`` sealed.

    What ``list`` gives is the server's word; ``restore`` proves it.
    """

    id: str
    version: int
    timestamp_ms: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Mark:
    """The versions that there are, and the highest that there ever was."""

    highest: int = 0
    live: tuple[int, ...] = ()

    def latest(self) -> int:
        return max(self.live, default=0)


class Backups:
    """A record under the head says which versions there are: the server cannot show fewer."""

    def __init__(self, wire: Wire, account: Account, ledger: Ledger, key_id: str) -> None:
        self._wire = wire
        self._account = account
        self._ledger = ledger
        self._key_id = key_id
        self._mark_id = account.root.id_for("backup")
        self._bound = ("backup", account.user_id)

    def create(self, source: BinaryIO, size_bytes: int) -> Backup:
        """Seal and send a backup of ``size_bytes`` bytes as the next version."""
        self._ledger.sync()
        known = max((one.version for one in self.list()), default=0)
        version = max(self._mark()[1].highest, known) + 1
        timestamp_ms = time.time_ns() // 1_000_000
        note, key_id = str(version), self._key_id
        # Reading is all that is asked of it.
        exact = cast("BinaryIO", ExactSource(source, size_bytes))
        key = record_key(self._account.root, key_id)
        pieces = seal_stream(key, exact, self._bound, key_id=key_id, note=note)
        target = {"target": "backup", "version": version, "timestamp": timestamp_ms}
        sealed_bytes = sealed_size(size_bytes, key_id=key_id, note=note)
        said = upload(self._wire, target, sealed_bytes, pieces)
        self._update(lambda mark: _Mark(version, (*mark.live, version)))
        return Backup(str(said.get("id")), version, timestamp_ms, sealed_bytes)

    def list(self) -> Sequence[Backup]:
        """All backups, newest first."""
        answer = self._wire.send(Call("GET", f"{BACKUP}/history"))
        try:
            return [_backup(one) for one in answer.json()]
        except (TypeError, KeyError):
            raise IntegrityError("The list of backups is none.") from None

    def restore(self, sink: BinaryIO, backup: Backup | None = None) -> int:
        """Write a backup to ``sink``, the latest without ``backup``; returns its version.

        What is written is authentic. It is complete only when this returns.
        """
        if backup is None:
            self._ledger.sync()
        latest = self._mark()[1].latest()
        opened: list[int] = []

        def key_of(header: Header) -> bytes:
            opened.append(int(header.note) if header.note.isdecimal() else 0)
            if backup is None and opened[0] < latest:
                raise IntegrityError(f"The server shows backup {opened[0]}; there is {latest}.")
            if backup is not None and opened[0] != backup.version:
                raise IntegrityError(f"The server shows backup {opened[0]} as {backup.version}.")
            return record_key(self._account.root, header.key_id)

        path = BACKUP if backup is None else f"{BACKUP}/{backup.id}"
        try:
            for chunk in open_stream(key_of, self._wire.stream(path), self._bound):
                sink.write(chunk)
        except NotFound:
            if backup is None and latest:
                raise IntegrityError(f"The server hides backup {latest}.") from None
            raise
        return opened[0]

    def delete(self, backup: Backup) -> None:
        """Forget a backup, then delete it."""
        self._update(
            lambda mark: _Mark(
                mark.highest, tuple(one for one in mark.live if one != backup.version)
            )
        )
        self._wire.send(Call("DELETE", f"{BACKUP}/{backup.id}"))

    def _mark(self) -> tuple[str, _Mark]:
        """What the head vouches for, and the ETag of the record that says it."""
        try:
            entry, payload = self._ledger.read(self._mark_id)
        except NotFound:
            return "", _Mark()
        said: dict[str, Any] = json.loads(payload[1:])
        return entry.etag, _Mark(said["highest"], tuple(said["live"]))

    def _update(self, change: Callable[[_Mark], _Mark]) -> None:
        for _ in range(RACES_MAX):
            etag, mark = self._mark()
            payload = INLINE + to_json(change(mark))
            try:
                self._ledger.commit(
                    [Edit(self._mark_id, BACKUP_TABLE, self._key_id, etag, payload)]
                )
            except Conflict:
                continue
            return
        raise Unreachable("Other devices make backups all the time: try again later.")


def _backup(said: dict[str, Any]) -> Backup:
    return Backup(
        str(said["id"]), int(said["version"]), int(said["timestamp"]), int(said["size_bytes"])
    )
