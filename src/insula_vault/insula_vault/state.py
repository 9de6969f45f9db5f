"""What a device knows of a vault: the last head it has verified, and the records under it."""

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

from insula_vault.encoding import from_base64, to_base64
from insula_vault.errors import IntegrityError
from insula_vault.head import Head, decode_head
from insula_vault.records import Entry
from insula_vault.tree import Tree

FORMAT = 1


@dataclass(frozen=True, slots=True)
class State:
    """Verified: ``tree`` is that of ``entries``, and its root is the head's.

    ``head_entry`` is the record that the head lies in. ``cursor`` and ``seq`` say how far the feed
    was read; the cursor is empty before the first time. A dict of entries is
    never changed: there is another one in the next state.
    """

    device: str
    entries: dict[str, Entry]
    tree: Tree
    head: Head | None = None
    head_entry: Entry | None = None
    cursor: str = ""
    seq: int = 0

    @classmethod
    def new(cls) -> "State":
        """The state of a device that has seen nothing."""
        return cls(os.urandom(8).hex(), {}, Tree())

    def restarted(self) -> "State":
        """To read the feed from its beginning. What was verified stays known."""
        return replace(self, entries={}, tree=Tree(), head_entry=None, cursor="", seq=0)

    def to_json(self, user_id: str) -> str:
        """No key is in it, but who has whose records under which ETags: keep it on the device."""
        return json.dumps(
            {
                "format": FORMAT,
                "user_id": user_id,
                "device": self.device,
                "entries": [asdict(entry) for entry in self.entries.values()],
                "head": None if self.head is None else to_base64(self.head.encode()),
                "head_entry": None if self.head_entry is None else asdict(self.head_entry),
                "cursor": self.cursor,
                "seq": self.seq,
            }
        )

    @classmethod
    def from_json(cls, text: str, user_id: str, head_key: bytes) -> "State":
        """IntegrityError when it is another account's, or not as it was written."""
        said: dict[str, Any] = json.loads(text)
        if said.get("format") != FORMAT or said.get("user_id") != user_id:
            raise IntegrityError("The saved state is of another account or another format.")
        head = head_entry = None
        if said["head"] is not None:
            head = decode_head(from_base64(said["head"]), head_key)
            head_entry = Entry(**said["head_entry"])
        entries = {entry["id"]: Entry(**entry) for entry in said["entries"]}
        cursor, seq = said["cursor"], said["seq"]
        state = cls(said["device"], entries, tree_of(entries), head, head_entry, cursor, seq)
        check_covered(state)
        return state


def tree_of(entries: dict[str, Entry]) -> Tree:
    tree = Tree()
    for entry in entries.values():
        tree = tree.put(entry.id, *entry.facts())
    return tree


def check_covered(state: State) -> None:
    """IntegrityError unless the records are those that the head vouches for."""
    root, count = (Tree().root, 0) if state.head is None else (state.head.root, state.head.count)
    if (state.tree.root, state.tree.count) != (root, count):
        raise IntegrityError(
            f"The head vouches for {count} records and the server shows {state.tree.count}, or "
            "others: it hides, replaces or adds some, or something else than this kit wrote."
        )
