"""The collections of a vault. What they are is under the head, and not the server's word."""

from dataclasses import replace
from typing import TYPE_CHECKING

from insula_vault.account import Account
from insula_vault.collection import Collection
from insula_vault.dcpe import BETA_DEFAULT, vectors_of
from insula_vault.definition import (
    LEAKAGE,
    LEAKAGE_ACK,
    Definition,
    LeakageNotAcknowledged,
    Sealer,
)
from insula_vault.encoding import to_base64, to_json
from insula_vault.errors import Conflict, NotFound
from insula_vault.ledger import Edit, Ledger
from insula_vault.records import INLINE, check_name
from insula_vault.wire import Call, Wire

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

COLLECTIONS = "/api/v1/storage/collections"
COLLECTION_TABLE = "_collection"


class Collections:
    """Makes and opens collections, and changes their keys."""

    def __init__(self, wire: Wire, account: Account, ledger: Ledger, key_id: str) -> None:
        self._wire = wire
        self._account = account
        self._ledger = ledger
        self._key_id = key_id

    def create_sealed(self, name: str, *, model: str, dimension: int) -> Collection:
        """A collection that is searched on the device. The server learns how many items it has."""
        return self._create(Definition(name, "sealed", model, dimension, 0.0, "", (1,)), {})

    def create_dcpe(
        self,
        name: str,
        *,
        model: str,
        mean: "ArrayLike",
        leakage_ack: str,
        beta: float = BETA_DEFAULT,
    ) -> Collection:
        """A collection that the server can rank. Read ``definition.LEAKAGE`` and acknowledge it.

        What outsiders can put into a collection belongs into another one than your own items:
        whoever knows about as many of its texts as a vector has numbers undoes its rotation.
        """
        if leakage_ack != LEAKAGE_ACK:
            raise LeakageNotAcknowledged(f"{LEAKAGE} Pass leakage_ack={LEAKAGE_ACK!r}.")
        row = vectors_of(mean)[0]
        packed = to_base64(row.tobytes())
        definition = Definition(name, "dcpe", model, len(row), beta, packed, (1,))
        # Refuses a beta or a mean that will not do, before anything is written.
        self._sealer(definition).cipher(1)
        return self._create(definition, {"leakage_ack": leakage_ack})

    def open(self, name: str) -> Collection:
        """A collection that any device of the account has made; NotFound when none has."""
        return Collection(self._wire, self._sealer(self._read(name)[1]))

    def delete(self, name: str) -> None:
        """Delete a collection and all that is in it."""
        etag, _ = self._read(name)
        self._wire.send(Call("DELETE", f"{COLLECTIONS}/{name}"))
        self._ledger.commit([Edit(self._record_id(name), "", "", etag, None)])

    def rotate(self, name: str) -> Collection:
        """Give a collection another key and bring all its items under it.

        When it breaks off, the collection has two epochs and is searched in both; call it again.
        """
        etag, definition = self._read(name)
        if len(definition.epochs) == 1:
            definition = replace(definition, epochs=(definition.epoch, definition.epoch + 1))
            etag = self._write(definition, etag)
        self._announce(definition, {"leakage_ack": LEAKAGE_ACK})
        Collection(self._wire, self._sealer(definition)).reseal()
        definition = replace(definition, epochs=(definition.epoch,))
        self._write(definition, etag)
        return Collection(self._wire, self._sealer(definition))

    def _create(self, definition: Definition, ack: dict[str, str]) -> Collection:
        check_name("A collection", definition.name)
        try:
            etag, _ = self._read(definition.name)
        except NotFound:
            self._announce(definition, ack)
            self._write(definition, "")
            return Collection(self._wire, self._sealer(definition))
        raise Conflict(self._record_id(definition.name), etag)

    def _announce(self, definition: Definition, ack: dict[str, str]) -> None:
        """Tell the server what it must know to rank; nothing of the model but its dimension."""
        body: dict[str, object] = {"mode": definition.mode}
        if definition.mode == "dcpe":
            body |= {
                "dimension": definition.dimension,
                "epoch": definition.epoch,
                "beta": definition.beta,
                **ack,
            }
        self._wire.json(Call("PUT", f"{COLLECTIONS}/{definition.name}", json=body))

    def _read(self, name: str) -> tuple[str, Definition]:
        self._ledger.sync()
        entry, payload = self._ledger.read(self._record_id(name))
        return entry.etag, Definition.decode(payload[1:])

    def _write(self, definition: Definition, etag: str) -> str:
        payload = INLINE + to_json(definition)
        record_id = self._record_id(definition.name)
        edit = Edit(record_id, COLLECTION_TABLE, self._key_id, etag, payload)
        (entry,) = self._ledger.commit([edit])
        return "" if entry is None else entry.etag

    def _record_id(self, name: str) -> str:
        return self._account.root.id_for("collection", name)

    def _sealer(self, definition: Definition) -> Sealer:
        return Sealer(self._account.root, self._account.user_id, definition)
