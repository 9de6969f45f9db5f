"""Collections of vectors: what one is, what is taken into it, and what the server learns of it."""

import hashlib
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from app.kernel.errors import Conflict, Invalid, NotFound, PreconditionRequired, TooLarge
from app.modules.storage.domain.digests import DigestMismatch, parse_hex, same

Mode: TypeAlias = Literal["sealed", "dcpe", "plain"]

# The collection of whoever names none.
DEFAULT_NAME: Final = "default"
FIRST_EPOCH: Final = 1
EPOCH_LIMIT: Final = 2**31 - 1
DIMENSION_LIMIT: Final = 4096
BETA_LIMIT: Final = 1000.0
MODEL_LIMIT_CHARS: Final = 128
COLLECTIONS_LIMIT: Final = 1000
ITEMS_LIMIT: Final = 1000
RESULTS_LIMIT: Final = 1000
SEALED_LIMIT_BYTES: Final = 65_536
TAGS_LIMIT: Final = 16
TAG_LIMIT_CHARS: Final = 64
# A search answers with as many bytes at most.
ANSWER_LIMIT_BYTES: Final = 16 * 2**20
FLOAT_BYTES: Final = 4
# Squares of what lies between are numbers in single precision too.
LENGTHS: Final = (1e-15, 1e15)

LEAKAGE_ACK: Final = "dcpe-v1"
LEAKAGE: Final = (
    "In dcpe mode the server never sees text or exact vectors, but it can see which of your items "
    "resemble each other, and a determined operator who knows your embedding model can learn "
    "topics. It also sees which queries find which items. It is not semantic security."
)

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_ITEM_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._:-]{0,63}")


class NoSuchCollection(NotFound):
    """No such collection, or somebody else's."""

    title = "No such collection"


class NoSuchVector(NotFound):
    """No such vector, or a deleted one."""

    title = "No such vector"


class CollectionInvalid(Invalid):
    """This describes no collection."""

    title = "Collection invalid"


class CollectionDiffers(Conflict):
    """Mode and dimension are fixed when it is made, model and noise for as long as an epoch."""

    title = "Collection differs"


class TooManyCollections(Conflict):
    """There are as many as one user may have."""

    title = "Too many collections"


class LeakageNotAcknowledged(PreconditionRequired):
    """The server learns something in this mode, and the caller has not said that it knows."""

    title = "Leakage not acknowledged"


class EpochMismatch(Conflict):
    """The collection is at another epoch; ``epoch`` says at which."""

    title = "Epoch mismatch"


class ClientIndexCollection(Conflict):
    """The server sees no vector of a sealed collection, so only its clients can search it."""

    title = "Client index collection"


class VectorInvalid(Invalid):
    """These bytes are no vector that the collection can take."""

    title = "Vector invalid"


class ItemInvalid(Invalid):
    """An item of this name, with this blob or these tags is not taken."""

    title = "Item invalid"


class BlobTooLarge(TooLarge):
    """One item's blob is larger than any may be."""

    title = "Blob too large"


class AnswerTooLarge(TooLarge):
    """What was found is more than one answer carries."""

    title = "Answer too large"


class Wish(msgspec.Struct, frozen=True):
    """A collection as its owner describes it; what is ``None`` is not said."""

    mode: Mode
    dimension: int | None = None
    model: str | None = None
    epoch: int | None = None
    beta: float | None = None


class Definition(msgspec.Struct, frozen=True):
    """A collection as it is. ``dimension`` is 0 where nobody said, which only sealed ones allow."""

    mode: Mode
    dimension: int
    model: str
    epoch: int
    beta: float | None


class Item(msgspec.Struct, frozen=True):
    """What a client puts into a collection.

    ``vector`` is float32, little-endian, and empty for a sealed collection; ``sealed`` is opaque,
    ``sha256`` is its checksum as 64 hex digits.
    """

    item_id: str
    vector: bytes
    sealed: bytes
    sha256: str
    tags: Mapping[str, str] = {}

    @property
    def size_bytes(self) -> int:
        """What it counts for."""
        return len(self.vector) + len(self.sealed)


def require_name(name: str) -> str:
    """A collection's name; what cannot be one names nothing."""
    if _NAME.fullmatch(name) is None:
        raise CollectionInvalid(
            "A collection's name is 1 to 64 of A-Z a-z 0-9 . _ - and no dot first."
        )
    return name


def require_acknowledgement(wish: Wish, leakage_ack: str | None) -> None:
    if wish.mode == "dcpe" and leakage_ack != LEAKAGE_ACK:
        raise LeakageNotAcknowledged(
            f'Read what the server learns, then send `"leakage_ack": "{LEAKAGE_ACK}"`.',
            leakage=LEAKAGE,
            leakage_ack=LEAKAGE_ACK,
        )


def define(wish: Wish) -> Definition:
    """A new collection."""
    if wish.mode != "sealed" and not wish.dimension:
        raise CollectionInvalid(f"A {wish.mode} collection needs a dimension.")
    if wish.mode != "dcpe" and wish.beta is not None:
        raise CollectionInvalid("Only a dcpe collection has noise, and so a beta.")
    epoch = FIRST_EPOCH if wish.epoch is None else wish.epoch
    return Definition(wish.mode, wish.dimension or 0, wish.model or "", epoch, wish.beta)


def redefine(current: Definition, wish: Wish) -> Definition:
    """What an existing collection becomes: itself, or itself at a higher epoch."""
    if wish.mode != current.mode:
        raise CollectionDiffers(f"This collection's mode is {current.mode}, and stays so.")
    if wish.dimension not in {None, current.dimension}:
        raise CollectionDiffers(
            f"This collection has {current.dimension} dimensions, and keeps them."
        )
    epoch = current.epoch if wish.epoch is None else wish.epoch
    if epoch < current.epoch:
        raise _wrong_epoch(current.epoch)
    wanted = Definition(
        current.mode,
        current.dimension,
        current.model if wish.model is None else wish.model,
        epoch,
        current.beta if wish.beta is None else wish.beta,
    )
    if epoch == current.epoch and wanted != current:
        raise CollectionDiffers("Another model or beta begins another epoch; name a higher one.")
    return wanted


def require_epoch(current: int, epoch: int | None) -> int:
    """The epoch to write to: the current one."""
    if epoch not in {None, current}:
        raise _wrong_epoch(current)
    return current


def require_known_epoch(current: int, epoch: int | None) -> int:
    """The epoch to search: the current one, or an earlier one that may still have items."""
    if epoch is not None and epoch > current:
        raise _wrong_epoch(current)
    return current if epoch is None else epoch


def require_vector(vector: bytes, dimension: int) -> None:
    """Refuse what is not ``dimension`` finite numbers, or has no direction."""
    if len(vector) != dimension * FLOAT_BYTES:
        raise VectorInvalid(
            f"A vector here is {dimension} float32, little-endian: {dimension * FLOAT_BYTES} bytes."
        )
    least, most = LENGTHS
    if not least <= math.hypot(*struct.unpack(f"<{dimension}f", vector)) <= most:
        raise VectorInvalid(f"A vector's numbers are finite, and its length is {least} to {most}.")


def require_items(items: Sequence[Item], mode: Mode, dimension: int) -> None:
    """Verify everything that came, before anything is stored."""
    if len({item.item_id for item in items}) < len(items):
        raise ItemInvalid("One request names an item once.")
    for item in items:
        _require_item(item)
        if mode != "sealed":
            require_vector(item.vector, dimension)
        elif item.vector:
            raise VectorInvalid("The server takes no vector into a sealed collection; seal it.")


def require_tags(tags: Mapping[str, str]) -> None:
    if len(tags) > TAGS_LIMIT:
        raise ItemInvalid(f"There are {TAGS_LIMIT} tags at most.")
    if not all(0 < len(name) <= TAG_LIMIT_CHARS >= len(value) for name, value in tags.items()):
        raise ItemInvalid(f"A tag's name and its value have {TAG_LIMIT_CHARS} characters at most.")


def require_item_id(item_id: str) -> str:
    if _ITEM_ID.fullmatch(item_id) is None:
        raise ItemInvalid("An item's id is 1 to 64 of A-Z a-z 0-9 . _ : - and no dot first.")
    return item_id


def _require_item(item: Item) -> None:
    require_item_id(item.item_id)
    require_tags(item.tags)
    if len(item.sealed) > SEALED_LIMIT_BYTES:
        raise BlobTooLarge(f"A blob has {SEALED_LIMIT_BYTES} bytes at most.", item=item.item_id)
    if not same(hashlib.sha256(item.sealed).hexdigest(), parse_hex(item.sha256)):
        raise DigestMismatch("The SHA-256 of a blob is another one.", item=item.item_id)


def _wrong_epoch(current: int) -> EpochMismatch:
    return EpochMismatch(f"This collection is at epoch {current}.", epoch=current)
