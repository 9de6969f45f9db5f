"""One collection: put items in, find them, take them out, change its key."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from insula_vault.copies import VECTORS, Copies
from insula_vault.dcpe import Dcpe, cosines, vectors_from, vectors_of
from insula_vault.definition import Opened, Sealer
from insula_vault.encoding import sha256, to_base64
from insula_vault.errors import CollectionChanged, Refused, VaultError, VectorRefused
from insula_vault.found import ACCEPTED, read_found
from insula_vault.wire import Call, Wire

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from insula_vault.dcpe import Vectors

Found: TypeAlias = Iterator[tuple[str, Opened]]

UPSERT_ITEMS: Final = 500
UPSERT_CHARS: Final = 4 * 1024 * 1024
EPOCH_MISMATCH: Final = "epoch-mismatch"
TOP_K: Final = 10
OVERFETCH: Final = 50
OVERFETCH_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Item:
    """A vector and what belongs to it. ``data`` is sealed; ``tags`` can be compared, no more."""

    id: str
    vector: "ArrayLike"
    data: bytes = b""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that was found. ``score`` is the exact cosine of its vector and the query."""

    id: str
    score: float
    data: bytes


class Collection:
    """What the server sends opens, or is refused. What it leaves out, nobody sees."""

    def __init__(self, wire: Wire, sealer: Sealer) -> None:
        self._wire = wire
        self._sealer = sealer
        self._copies = Copies(wire, sealer)
        self._ciphers: dict[int, Dcpe] = {}

    @property
    def name(self) -> str:
        return self._sealer.name

    @property
    def epochs(self) -> tuple[int, ...]:
        """More than one while the key is being changed."""
        return self._sealer.definition.epochs

    def upsert(self, items: Sequence[Item]) -> int:
        """Write items, each in place of the one of its id; returns how many."""
        self._send([(item, self._sealer.tags(item.tags)) for item in items])
        return len(items)

    def search(
        self,
        query: "ArrayLike",
        *,
        top_k: int = TOP_K,
        overfetch: int = OVERFETCH,
        tags: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """The nearest items by exact cosine, nearest first.

        Of a sealed collection all are compared here. Of a dcpe one the server picks ``overfetch``
        by what it can see, and those are compared: it can leave out what it likes.
        """
        if not 1 <= top_k <= overfetch <= OVERFETCH_MAX:
            raise ValueError(f"1 <= top_k <= overfetch <= {OVERFETCH_MAX}.")
        row = vectors_of(query, self._sealer.definition.dimension)[0]
        wanted = self._sealer.tags(tags or {})
        if self._sealer.definition.mode == "sealed":
            found = self._held(wanted)
        else:
            found = self._ranked(row, top_k, overfetch, wanted)
        return _nearest(row, found, top_k)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items; returns how many there were."""
        body = {"collection": self.name, "ids": list(ids)}
        deleted = self._wire.json(Call("DELETE", VECTORS, json=body)).get("deleted")
        return int(deleted) if isinstance(deleted, int) else 0

    def reseal(self) -> int:
        """Bring items of former epochs into the current one; returns how many there were."""
        current = self._sealer.definition.epoch
        former = [
            (Item(item_id, vectors_from([copy.opened.vector])[0], copy.opened.data), copy.tags)
            for item_id, copy in self._copies.refresh().items()
            if copy.opened.epoch != current
        ]
        self._send(former)
        return len(former)

    def _send(self, items: Sequence[tuple[Item, dict[str, str]]]) -> None:
        """Write items, with tags as the server has them, in pages that it takes."""
        page: list[dict[str, Any]] = []
        size_chars = 0
        for one in self._sealed(items):
            size_chars += len(one["blob"]) + len(one.get("vector", "")) + len(str(one["tags"]))
            if page and (size_chars > UPSERT_CHARS or len(page) == UPSERT_ITEMS):
                self._post(page)
                page, size_chars = [], 0
            page.append(one)
        if page:
            self._post(page)

    def _post(self, page: list[dict[str, Any]]) -> None:
        body: dict[str, Any] = {"collection": self.name, "vectors": page}
        if self._sealer.definition.mode == "dcpe":
            body["epoch"] = self._sealer.definition.epoch
        try:
            self._wire.json(Call("POST", f"{VECTORS}/upsert", json=body))
        except Refused as refusal:
            raise self._explained(refusal) from None

    def _sealed(self, items: Sequence[tuple[Item, dict[str, str]]]) -> Iterator[dict[str, Any]]:
        """Items as they are sent, under the current epoch."""
        definition = self._sealer.definition
        for item, tags in items:
            rows = vectors_of(item.vector, definition.dimension)
            if len(rows) != 1:
                raise VectorRefused(f"Item {item.id} has {len(rows)} vectors; it has one.")
            blob = self._sealer.seal(item.id, rows[0].tobytes(), item.data)
            one = {"id": item.id, "blob": to_base64(blob), "checksum": sha256(blob), "tags": tags}
            if definition.mode == "dcpe":
                encrypted = self._cipher(definition.epoch).encrypt(rows)[0]
                one["vector"] = to_base64(encrypted.tobytes())
            yield one

    def _held(self, tags: dict[str, str]) -> Found:
        for item_id, copy in self._copies.refresh().items():
            if tags.items() <= copy.tags.items():
                yield item_id, copy.opened

    def _ranked(self, query: "Vectors", top_k: int, overfetch: int, tags: dict[str, str]) -> Found:
        """What the server finds: one query for each epoch, for their distances do not compare."""
        for epoch in self.epochs:
            body = {
                "collection": self.name,
                "epoch": epoch,
                "query": to_base64(self._cipher(epoch).encrypt(query)[0].tobytes()),
                "top_k": top_k,
                "overfetch": overfetch,
                "tags": tags,
            }
            found = self._found(body, overfetch)
            yield from zip([one for one, _ in found], self._sealer.open(found), strict=True)

    def _found(self, body: dict[str, Any], limit: int) -> list[tuple[str, bytes]]:
        call = Call("POST", f"{VECTORS}/search", json=body, headers={"accept": ACCEPTED})
        try:
            return read_found(self._wire.send(call), limit)
        except Refused as refusal:
            # While the key is being changed, one of the two epochs may have no items.
            if refusal.kind == EPOCH_MISMATCH and len(self.epochs) > 1:
                return []
            raise self._explained(refusal) from None

    def _explained(self, refusal: Refused) -> VaultError:
        """A refusal in words of this kit, where it has some."""
        if refusal.kind == EPOCH_MISMATCH:
            return CollectionChanged(
                f"The key of collection {self.name} was changed, or is being changed: open it "
                "again, or finish with rotate."
            )
        return refusal

    def _cipher(self, epoch: int) -> Dcpe:
        if epoch not in self._ciphers:
            self._ciphers[epoch] = self._sealer.cipher(epoch)
        return self._ciphers[epoch]


def _nearest(query: "Vectors", found: Found, top_k: int) -> list[Hit]:
    by_id = dict(found)
    if not by_id:
        return []
    scores = cosines(query, vectors_from([one.vector for one in by_id.values()]))
    nearest = sorted(zip((-scores).tolist(), by_id, strict=True))[:top_k]
    return [Hit(item_id, -far, by_id[item_id].data) for far, item_id in nearest]
