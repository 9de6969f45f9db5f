"""The change feed, read page by page into a state that is not verified yet."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from insula_vault.errors import IntegrityError, Refused
from insula_vault.records import Entry, check_etag, revision, unquoted
from insula_vault.state import State
from insula_vault.tree import Tree
from insula_vault.wire import Call, Wire

CHANGES = "/api/v1/storage/changes"
PAGE_ITEMS = 500
PAGES_MAX = 20_000
HEAD_TABLE = "_head"
# Bodies that are too large for a record of their own lie here. Each is named in a record, by an
# id that is used once: the head vouches for them through that record.
BODY_TABLE = "_body"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the feed."""

    seq: int
    id: str
    table: str
    key_id: str
    etag: str
    checksum: str
    size_bytes: int
    is_deleted: bool

    @classmethod
    def of(cls, said: dict[str, Any]) -> "Item":
        """Read a line; IntegrityError when it is none."""
        try:
            item = cls(
                int(said["seq"]),
                str(said["id"]),
                str(said["table"]),
                str(said["key_id"] or ""),
                unquoted(said["etag"]),
                str(said["checksum"] or ""),
                int(said["size_bytes"] or 0),
                bool(said["is_deleted"]),
            )
        except (KeyError, TypeError, ValueError):
            raise IntegrityError("A line of the change feed is incomplete.") from None
        return item

    def entry(self) -> Entry:
        check_etag(self.etag, self.checksum)
        return Entry(self.id, self.table, self.key_id, self.etag, self.checksum, self.size_bytes)


def read_feed(wire: Wire, state: State) -> State:
    """Follow the feed to its end. What comes of it has still to be checked against its head.

    When the server has forgotten the way, it is begun again.
    """
    try:
        return _follow(wire, state)
    except Refused as refusal:
        if refusal.kind != "cursor-expired":
            raise
    return _follow(wire, state.restarted())


def lines(wire: Wire, cursor: str, kinds: str) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Pages of the feed from a cursor on, each with the cursor behind it."""
    for _ in range(PAGES_MAX):
        params = {"limit": str(PAGE_ITEMS), "kinds": kinds}
        if cursor:
            params["cursor"] = cursor
        page = wire.json(Call("GET", CHANGES, params=params))
        items, cursor = page.get("items"), page.get("cursor", "")
        if not isinstance(items, list) or not isinstance(cursor, str) or not cursor:
            raise IntegrityError("A page of the change feed is incomplete.")
        yield items, cursor
        if not page.get("has_more"):
            return
    raise IntegrityError("The change feed has no end.")


def _follow(wire: Wire, state: State) -> State:
    draft = _Draft(dict(state.entries), state.tree, state.seq, state.head_entry)
    cursor = state.cursor
    for items, following in lines(wire, state.cursor, "record"):
        for said in items:
            draft.take(Item.of(said))
        cursor = following
    return replace(
        state,
        entries=draft.entries,
        tree=draft.tree,
        head_entry=draft.head_entry,
        cursor=cursor,
        seq=draft.seq,
    )


@dataclass(slots=True)
class _Draft:
    """Entries while lines are taken in. It is the only thing here that changes."""

    entries: dict[str, Entry]
    tree: Tree
    seq: int
    head_entry: Entry | None

    def take(self, item: Item) -> None:
        if item.seq <= self.seq:
            raise IntegrityError(f"The change feed goes back from {self.seq} to {item.seq}.")
        self.seq = item.seq
        if item.table == HEAD_TABLE:
            self._take_head(item)
        elif item.is_deleted:
            self.entries.pop(item.id, None)
            self.tree = self.tree.drop(item.id)
        elif item.table != BODY_TABLE:
            entry = item.entry()
            _check_forward(self.entries.get(item.id), entry)
            self.entries[item.id] = entry
            self.tree = self.tree.put(item.id, *entry.facts())

    def _take_head(self, item: Item) -> None:
        if item.is_deleted:
            raise IntegrityError("The head of the vault was deleted, which no device does.")
        self.head_entry = item.entry()


def _check_forward(known: Entry | None, shown: Entry) -> None:
    """A revision has one body, and revisions count up."""
    if known is None or known.etag == shown.etag:
        if known is not None and known.checksum != shown.checksum:
            raise IntegrityError(f"Revision {shown.etag} of record {shown.id} has two bodies.")
        return
    if revision(shown.etag) <= revision(known.etag):
        raise IntegrityError(
            f"Record {shown.id} went back from revision {known.etag} to {shown.etag}."
        )
