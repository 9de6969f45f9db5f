"""The items of a collection on this device: fetched once, opened, and kept up by the feed."""

from dataclasses import dataclass
from typing import Any, Final

from insula_vault.definition import Opened, Sealer
from insula_vault.encoding import from_base64
from insula_vault.errors import IntegrityError, NotFound, Refused
from insula_vault.feed import lines
from insula_vault.wire import Call, Wire

VECTORS: Final = "/api/v1/storage/vectors"


@dataclass(frozen=True, slots=True)
class Copy:
    """An item. ``tags`` are as the server has them."""

    opened: Opened
    tags: dict[str, str]


class Copies:
    """In memory only: another process fetches them again."""

    def __init__(self, wire: Wire, sealer: Sealer) -> None:
        self._wire = wire
        self._sealer = sealer
        self._cursor = ""
        self._held: dict[str, Copy] = {}

    def refresh(self) -> dict[str, Copy]:
        """Follow the feed; returns what is there now."""
        try:
            self._follow()
        except Refused as refusal:
            if refusal.kind != "cursor-expired":
                raise
            self._cursor, self._held = "", {}
            self._follow()
        return self._held

    def _follow(self) -> None:
        for items, cursor in lines(self._wire, self._cursor, "vector"):
            for item in items:
                if item.get("kind") == "vector" and item.get("table") == self._sealer.name:
                    self._take(str(item.get("id")))
            self._cursor = cursor

    def _take(self, item_id: str) -> None:
        """Fetch an item that the feed names; gone is gone, whatever the feed says."""
        try:
            said = self._wire.json(Call("GET", f"{VECTORS}/{self._sealer.name}/{item_id}"))
        except NotFound:
            self._held.pop(item_id, None)
            return
        (opened,) = self._sealer.open([(item_id, sealed_of(said))])
        tags = said.get("tags")
        self._held[item_id] = Copy(opened, dict(tags) if tags else {})


def sealed_of(said: dict[str, Any]) -> bytes:
    """The sealed item in an answer, which may be called by either of its two names."""
    sealed = said.get("sealed", said.get("blob"))
    if sealed is None:
        raise IntegrityError("The server shows an item without its sealed body.")
    return from_base64(sealed)
