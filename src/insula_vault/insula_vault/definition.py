"""What a collection is, and how its items are sealed."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from insula_vault.dcpe import Dcpe, load_numpy
from insula_vault.encoding import from_base64, pack, unpack
from insula_vault.envelope import Opener, read_header, seal
from insula_vault.errors import CollectionChanged, IntegrityError, VaultError
from insula_vault.keys import RootKey

if TYPE_CHECKING:
    from insula_vault.dcpe import Vectors

Mode: TypeAlias = Literal["sealed", "dcpe"]

LEAKAGE_ACK: Final = "dcpe-v1"
LEAKAGE = (
    "In a dcpe collection the server never sees text or exact vectors, but it sees which items "
    "resemble each other, which items a query found, and with the embedding model and similar "
    "texts of its own it can learn topics. It is not semantic security."
)


class LeakageNotAcknowledged(VaultError):
    """A dcpe collection is made only by somebody who has read what it leaks."""


@dataclass(frozen=True, slots=True)
class Definition:
    """``epochs`` are those that items may still have; the last one is current.

    ``mean`` is float32 in base64, empty in a sealed collection; so is ``beta`` 0 there.
    """

    name: str
    mode: Mode
    model: str
    dimension: int
    beta: float
    mean: str
    epochs: tuple[int, ...]

    @classmethod
    def decode(cls, data: bytes) -> "Definition":
        said: dict[str, Any] = json.loads(data)
        return cls(**{**said, "epochs": tuple(said["epochs"])})

    @property
    def epoch(self) -> int:
        return self.epochs[-1]

    def bound(self, user_id: str, item_id: str, epoch: int) -> tuple[str, ...]:
        """What an item is bound to. Numbers are written so that equal ones are equal text."""
        return (
            "vector",
            user_id,
            self.name,
            item_id,
            self.model,
            str(self.dimension),
            str(epoch),
            struct.pack(">d", self.beta).hex(),
        )


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens the items of one collection."""

    root: RootKey
    user_id: str
    definition: Definition
    # One for each epoch: a search opens fifty items with the same key.
    _openers: dict[int, Opener] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.definition.name

    def seal(self, item_id: str, vector: bytes, data: bytes) -> bytes:
        epoch = self.definition.epoch
        bound = self.definition.bound(self.user_id, item_id, epoch)
        return seal(self._key(epoch), pack(vector, data), bound, key_id=str(epoch))

    def open(self, item_id: str, sealed: bytes) -> "tuple[int, Vectors, bytes]":
        """The item's epoch, its exact vector and its data."""
        read = read_header(sealed)
        key_id = read[0].key_id
        epoch = int(key_id) if key_id.isdecimal() else 0
        if epoch > self.definition.epoch:
            raise CollectionChanged(f"Collection {self.name} has a newer key: open it again.")
        if epoch not in self.definition.epochs:
            raise IntegrityError(f"Item {item_id} is of epoch {key_id}, which has ended.")
        bound = self.definition.bound(self.user_id, item_id, epoch)
        fields = unpack(self._opener(epoch).open(read, sealed, bound))
        if len(fields) != 2 or len(fields[0]) != 4 * self.definition.dimension:
            raise IntegrityError(f"Item {item_id} has a vector of another length.")
        vector: Vectors = load_numpy().frombuffer(fields[0], dtype="<f4")
        return epoch, vector, fields[1]

    def cipher(self, epoch: int) -> Dcpe:
        """How the vectors of an epoch are encrypted for the server."""
        mean = load_numpy().frombuffer(from_base64(self.definition.mean), dtype="<f4")
        key = self.root.derive("collection", self.name, str(epoch))
        return Dcpe(key, model=self.definition.model, mean=mean, beta=self.definition.beta)

    def tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Names as they are, values so that the server can only compare them."""
        return {name: self.root.tag(self.name, name, value) for name, value in tags.items()}

    def _opener(self, epoch: int) -> Opener:
        if epoch not in self._openers:
            self._openers[epoch] = Opener(self._key(epoch))
        return self._openers[epoch]

    def _key(self, epoch: int) -> bytes:
        return self.root.derive("vector", self.name, str(epoch))
