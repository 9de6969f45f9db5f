"""What a collection is, and how its items are sealed."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from insula_vault.dcpe import Dcpe, load_numpy
from insula_vault.encoding import LENGTH, from_base64, pack
from insula_vault.envelope import Series, read_header, seal
from insula_vault.errors import CollectionChanged, IntegrityError, VaultError
from insula_vault.keys import RootKey

Mode: TypeAlias = Literal["sealed", "dcpe"]

FLOAT_BYTES: Final = 4
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

    def bound(self, user_id: str, epoch: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What an item is bound to before its id, and after it.

        Numbers are written so that equal ones are equal text.
        """
        beta = struct.pack(">d", self.beta).hex()
        numbers = (str(self.dimension), str(epoch), beta)
        return ("vector", user_id, self.name), (self.model, *numbers)


class Opened(NamedTuple):
    """An item's epoch, its exact vector as float32, little-endian, and its data."""

    epoch: int
    vector: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens the items of one collection."""

    root: RootKey
    user_id: str
    definition: Definition
    # The last one, or none: a search opens fifty items that were sealed alike.
    _alike: list[Series] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.definition.name

    def seal(self, item_id: str, vector: bytes, data: bytes) -> bytes:
        epoch = self.definition.epoch
        before, after = self.definition.bound(self.user_id, epoch)
        bound = (*before, item_id, *after)
        return seal(self._key(epoch), pack(vector, data), bound, key_id=str(epoch))

    def open(self, items: Sequence[tuple[str, bytes]]) -> list[Opened]:
        """Ids and what is sealed; IntegrityError when one is not what was sealed under its id."""
        found: list[Opened] = []
        while len(found) < len(items):
            rest = items[len(found) :]
            if not self._alike or not self._alike[0].has(rest[0][1]):
                self._alike[:] = [self._begun(*rest[0])]
            (series,) = self._alike
            found += self._parted(int(series.key_id), series.open(rest))
        return found

    def cipher(self, epoch: int) -> Dcpe:
        """How the vectors of an epoch are encrypted for the server."""
        mean = load_numpy().frombuffer(from_base64(self.definition.mean), dtype="<f4")
        key = self.root.derive("collection", self.name, str(epoch))
        return Dcpe(key, model=self.definition.model, mean=mean, beta=self.definition.beta)

    def tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Names as they are, values so that the server can only compare them."""
        return {name: self.root.tag(self.name, name, value) for name, value in tags.items()}

    def _begun(self, item_id: str, sealed: bytes) -> Series:
        """How items are opened that begin like this one. Their key id is their epoch."""
        key_id = read_header(sealed)[0].key_id
        epoch = int(key_id) if key_id.isdecimal() else 0
        if epoch > self.definition.epoch:
            raise CollectionChanged(f"Collection {self.name} has a newer key: open it again.")
        if epoch not in self.definition.epochs:
            raise IntegrityError(f"Item {item_id} is of epoch {key_id}, which has ended.")
        return Series(self._key(epoch), sealed, *self.definition.bound(self.user_id, epoch))

    def _parted(self, epoch: int, packed: Sequence[bytes]) -> list[Opened]:
        """Vectors and data, each pair of which ``seal`` has packed."""
        before, end = LENGTH.size, LENGTH.size + FLOAT_BYTES * self.definition.dimension
        start = end + LENGTH.size
        first = LENGTH.pack(end - before)
        for one in packed:
            if one[:before] != first or one[end:start] != LENGTH.pack(max(0, len(one) - start)):
                raise IntegrityError("An item has a vector of another length.")
        return [Opened(epoch, one[before:end], one[start:]) for one in packed]

    def _key(self, epoch: int) -> bytes:
        return self.root.derive("vector", self.name, str(epoch))
