"""The verified view of a store, and the only way to change it: every change with its head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from insula_vault.aead import XCHACHA20_POLY1305, Algorithm
from insula_vault.encoding import sha256, to_base64
from insula_vault.errors import (
    Conflict,
    IntegrityError,
    NotFound,
    OutcomeUnknown,
    Refused,
    Unreachable,
)
from insula_vault.feed import HEAD_TABLE, read_feed
from insula_vault.head import (
    Head,
    Mark,
    authenticated,
    check_descends,
    decode_head,
    first_or_next,
)
from insula_vault.keys import RootKey
from insula_vault.records import (
    Binding,
    Entry,
    check_etag,
    open_entry,
    quoted,
    revision,
    seal_record,
    unquoted,
)
from insula_vault.state import State, check_covered
from insula_vault.tree import Tree
from insula_vault.wire import Call, Wire

RECORDS = "/api/v1/storage/records"
BATCH = "/api/v1/storage/batch"
HEAD_KEY_ID: Final = "_head"
ROUNDS_MAX = 16
EDITS_MAX = 99
BATCH_MAX_BYTES = 4 * 1024 * 1024
# A refusal for these reasons says that another device was faster.
OVERTAKEN = frozenset({404, 412})


@dataclass(frozen=True, slots=True)
class Edit:
    """One change. ``base`` is the ETag it builds on, empty for a new record; no payload deletes."""

    id: str
    table: str
    key_id: str
    base: str
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class Change:
    """What another device did: the record as it is now, or as it was before it was deleted."""

    entry: Entry
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A batch that is ready to be sent, and what will be known once it is made."""

    operations: list[dict[str, Any]]
    entries: list[Entry | None]
    head_entry: Entry
    head: Head
    tree: Tree


class Ledger:
    """Reads are checked against the last verified head, writes carry the next one."""

    def __init__(
        self,
        wire: Wire,
        root: RootKey,
        user_id: str,
        saved: str | None = None,
        algorithm: Algorithm = XCHACHA20_POLY1305,
    ) -> None:
        self._wire = wire
        self._root = root
        self._user_id = user_id
        self._algorithm = algorithm
        self._head_id = root.id_for("head")
        self._head_key = root.derive("head")
        self.state = (
            State.new() if saved is None else State.from_json(saved, user_id, self._head_key)
        )

    def sync(self) -> list[Change]:
        """Take over what other devices did. After an IntegrityError nothing was taken over."""
        before = draft = self.state
        for _ in range(ROUNDS_MAX):
            draft = read_feed(self._wire, draft)
            is_settled, head = self._shown_head(draft)
            if is_settled:
                if head is not None:
                    check_descends(before.head, head)
                verified = replace(draft, head=head)
                check_covered(verified)
                self.state = verified
                return _difference(before.entries, verified.entries)
        raise IntegrityError("The change feed and the head of the vault do not come together.")

    def catch_up(self) -> None:
        """Sync if that was never done."""
        if not self.state.cursor:
            self.sync()

    def read(self, record_id: str) -> tuple[Entry, bytes]:
        """A record that the verified head vouches for, opened. Asks the feed when it has to."""
        before: Entry | None = None
        for _ in range(ROUNDS_MAX):
            entry = self.state.entries.get(record_id)
            if entry is not None and entry == before:
                raise IntegrityError(
                    f"Record {record_id} is under the head as {entry.etag}; the server hides it "
                    "or shows another one."
                )
            sealed = None if entry is None else self._fetch(entry)
            if entry is not None and sealed is not None:
                return entry, open_entry(self._root, self._user_id, entry, sealed)
            before = entry
            self.sync()
            if entry is None and record_id not in self.state.entries:
                break
        raise NotFound(f"There is no record {record_id}.")

    def require_current(self, bases: Mapping[str, str]) -> None:
        """Conflict unless each record is at its ETag, or is not there where that is empty."""
        self.catch_up()
        if self._overtaken(bases) is not None:
            self.sync()
            self._raise_conflict(bases)

    def commit(self, edits: Sequence[Edit]) -> list[Entry | None]:
        """Make all changes or none; returns the records as they are then, ``None`` where deleted.

        Conflict when one of them builds on what is no longer so. When only others wrote meanwhile,
        the batch is made again on their head.
        """
        if not 1 <= len(edits) <= EDITS_MAX or len({edit.id for edit in edits}) < len(edits):
            raise ValueError(f"A batch changes 1 to {EDITS_MAX} different records.")
        bases = {edit.id: edit.base for edit in edits}
        self.require_current(bases)
        sent: list[_Attempt] = []
        for _ in range(ROUNDS_MAX):
            self._raise_conflict(bases)
            sent.append(self._prepare(edits))
            made = self._send(sent)
            if made is not None:
                return made.entries
        raise Unreachable("Other devices write so often that this one found no place.")

    def _send(self, sent: list[_Attempt]) -> _Attempt | None:
        """Send the last attempt. ``None`` when it was not made, nor any before it."""
        attempt = sent[-1]
        body = {"operations": attempt.operations}
        try:
            answer = self._wire.json(Call("POST", BATCH, json=body, is_repeatable=False))
        except Refused as refusal:
            if not _is_overtaken(refusal):
                raise
        except Unreachable as error:
            self._sync_or_give_up(error)
        else:
            return self._adopt(attempt, answer)
        self.sync()
        return next((one for one in sent if self._has_landed(one)), None)

    def _sync_or_give_up(self, lost: Unreachable) -> None:
        try:
            self.sync()
        except Unreachable:
            raise OutcomeUnknown(
                "The change was sent and its answer was lost: sync shows whether it was made."
            ) from lost

    def _has_landed(self, attempt: _Attempt) -> bool:
        """Whether the verified head descends from the attempt's: then it was made."""
        head, mine = self.state.head, attempt.head
        return head is not None and head.seen().get(mine.device) == Mark(mine.seq, mine.mac)

    def _prepare(self, edits: Sequence[Edit]) -> _Attempt:
        tree, operations = self.state.tree, []
        entries: list[Entry | None] = []
        for edit in edits:
            if edit.payload is None:
                tree = tree.drop(edit.id)
                entries.append(None)
                condition = {"if_match": quoted(edit.base)}
                operations.append({"op": "delete", "id": edit.id, **condition})
                continue
            entry, operation = self._sealed(edit, edit.payload)
            tree = tree.put(entry.id, *entry.facts())
            entries.append(entry)
            operations.append(operation)
        device, known = self.state.device, self.state.head_entry
        following = first_or_next(self.state.head, device, tree.root, tree.count)
        head = authenticated(following, self._head_key)
        base = "" if known is None else known.etag
        carrier = Edit(self._head_id, HEAD_TABLE, HEAD_KEY_ID, base, head.encode())
        head_entry, operation = self._sealed(carrier, head.encode())
        operations.append(operation)
        if sum(len(one.get("blob", "")) for one in operations) > BATCH_MAX_BYTES:
            raise ValueError(f"A batch has at most {BATCH_MAX_BYTES} bytes: send several.")
        return _Attempt(operations, entries, head_entry, head, tree)

    def _sealed(self, edit: Edit, payload: bytes) -> tuple[Entry, dict[str, Any]]:
        """The record as it will be, and the operation that makes it so."""
        binding = Binding(self._user_id, edit.id, edit.table, edit.key_id, edit.base)
        blob = seal_record(self._root, binding, payload, self._algorithm)
        checksum = sha256(blob)
        number = revision(edit.base) + 1 if edit.base else 1
        etag = f"{number}-{checksum[:8]}"
        entry = Entry(edit.id, edit.table, edit.key_id, etag, checksum, len(blob))
        operation = {
            "op": "put",
            "id": edit.id,
            "table": edit.table,
            "key_id": edit.key_id,
            "blob": to_base64(blob),
            "checksum": checksum,
        }
        condition = {"if_match": quoted(edit.base)} if edit.base else {"if_none_match": "*"}
        return entry, operation | condition

    def _adopt(self, attempt: _Attempt, answer: dict[str, Any]) -> _Attempt:
        """Take over a batch that was made, under the ETags that the server gave."""
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != len(attempt.operations):
            raise IntegrityError("The answer of a batch does not fit the batch.")
        made = [
            None if entry is None else _numbered(entry, operation, result)
            for entry, operation, result in zip(
                [*attempt.entries, attempt.head_entry], attempt.operations, results, strict=True
            )
        ]
        entries = dict(self.state.entries)
        for operation, entry in zip(attempt.operations[:-1], made[:-1], strict=True):
            if entry is None:
                entries.pop(operation["id"], None)
            else:
                entries[entry.id] = entry
        self.state = replace(
            self.state,
            entries=entries,
            tree=attempt.tree,
            head=attempt.head,
            head_entry=made[-1],
        )
        return replace(attempt, entries=made[:-1])

    def _shown_head(self, draft: State) -> tuple[bool, Head | None]:
        """The head that belongs to a reading of the feed. False when it was replaced meanwhile."""
        shown = draft.head_entry
        if shown is None and draft.head is not None:
            raise IntegrityError("The server no longer shows the head of the vault.")
        if shown is None or shown == self.state.head_entry:
            return True, self.state.head
        if shown.id != self._head_id:
            raise IntegrityError("The server shows a head that is not this vault's.")
        sealed = self._fetch(shown)
        if sealed is None:
            return False, None
        content = open_entry(self._root, self._user_id, shown, sealed)
        return True, decode_head(content, self._head_key)

    def _fetch(self, entry: Entry) -> bytes | None:
        """The sealed body of a revision; ``None`` when the server has another one, or none."""
        try:
            answer = self._wire.send(Call("GET", f"{RECORDS}/{entry.id}"))
        except NotFound:
            return None
        is_it = unquoted(answer.headers.get("etag")) == entry.etag
        return answer.content if is_it else None

    def _overtaken(self, bases: Mapping[str, str]) -> str | None:
        """The first record that is not what a change builds on."""
        for record_id, base in bases.items():
            entry = self.state.entries.get(record_id)
            if base != ("" if entry is None else entry.etag):
                return record_id
        return None

    def _raise_conflict(self, bases: Mapping[str, str]) -> None:
        record_id = self._overtaken(bases)
        if record_id is not None:
            entry = self.state.entries.get(record_id)
            raise Conflict(record_id, None if entry is None else entry.etag)


def _is_overtaken(refusal: Refused) -> bool:
    """Whether a batch was refused only because another device was faster."""
    errors = refusal.extras.get("errors")
    if refusal.kind != "batch-refused" or not isinstance(errors, list):
        return False
    return all(isinstance(one, dict) and one.get("status") in OVERTAKEN for one in errors)


def _numbered(entry: Entry, operation: dict[str, Any], result: Any) -> Entry:
    """The record under the ETag that the server gave it."""
    etag = unquoted(result.get("etag")) if isinstance(result, dict) else ""
    check_etag(etag, entry.checksum)
    if "if_match" in operation and etag != entry.etag:
        raise IntegrityError(f"The server made {etag} of {entry.id}, which follows on another one.")
    return replace(entry, etag=etag)


def _difference(before: dict[str, Entry], after: dict[str, Entry]) -> list[Change]:
    changed = [
        Change(entry, is_deleted=False) for entry in after.values() if before.get(entry.id) != entry
    ]
    gone = [Change(entry, is_deleted=True) for entry in before.values() if entry.id not in after]
    return changed + gone
