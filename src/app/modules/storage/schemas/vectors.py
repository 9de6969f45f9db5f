"""Collections and vectors on the wire. Bytes are base64, vectors float32 in little-endian order."""

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.modules.storage.domain.conditions import etag_of, quoted
from app.modules.storage.domain.searches import Alike, Ranked, Ranking, Shown
from app.modules.storage.domain.vectors import (
    BETA_LIMIT,
    DIMENSION_LIMIT,
    EPOCH_LIMIT,
    ITEMS_LIMIT,
    MODEL_LIMIT_CHARS,
    RESULTS_LIMIT,
    Item,
    Mode,
    Wish,
)
from app.modules.storage.models import CollectionRow, VectorRow
from app.modules.storage.schemas.records import milliseconds

# A search's answer as `framed` makes it.
FOUND: Final = "application/vnd.insula.found"
LENGTH: Final = struct.Struct(">I")

Epoch = Annotated[int, Meta(ge=0, le=EPOCH_LIMIT)]


class CollectionPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a collection shall be. ``dcpe`` needs ``leakage_ack``; 428 says what it stands for."""

    mode: Mode
    dimension: Annotated[int, Meta(ge=1, le=DIMENSION_LIMIT)] | None = None
    model: Annotated[str, Meta(max_length=MODEL_LIMIT_CHARS)] | None = None
    epoch: Epoch | None = None
    beta: Annotated[float, Meta(gt=0, le=BETA_LIMIT)] | None = None
    leakage_ack: str | None = None

    @property
    def wish(self) -> Wish:
        return Wish(self.mode, self.dimension, self.model, self.epoch, self.beta)


class CollectionRead(msgspec.Struct, frozen=True):
    """A collection. ``dimension`` is 0 in a sealed one that nobody gave any."""

    name: str
    mode: str
    dimension: int
    model: str
    epoch: int
    beta: float | None
    vectors: int
    size_bytes: int
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, row: CollectionRow) -> "CollectionRead":
        return cls(
            name=row.name,
            mode=row.mode,
            dimension=row.dimension,
            model=row.model,
            epoch=row.epoch,
            beta=row.beta,
            vectors=row.vector_count,
            size_bytes=row.size_bytes,
            created_at=milliseconds(row.created_at),
            updated_at=milliseconds(row.updated_at),
        )


class CollectionList(msgspec.Struct, frozen=True):
    items: list[CollectionRead]


class VectorItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item. ``blob`` is the client's own, sealed; ``checksum`` is its SHA-256 in hex."""

    id: str
    blob: bytes
    checksum: str
    vector: bytes = b""
    tags: dict[str, str] = {}


class VectorUpsert(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items to put, all or none. Without a collection it is ``default``, sealed if it is new."""

    vectors: Annotated[list[VectorItem], Meta(min_length=1, max_length=ITEMS_LIMIT)]
    collection: str | None = None
    epoch: Epoch | None = None

    @property
    def items(self) -> list[Item]:
        return [Item(one.id, one.vector, one.blob, one.checksum, one.tags) for one in self.vectors]


class VectorUpserted(msgspec.Struct, frozen=True):
    upserted: int


class VectorSearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either ``query`` and where to look, or ``query_blob`` alone: a blob to find again.

    ``overfetch`` asks for more than ``top_k``, for a client that ranks again what it opens.
    """

    query: bytes | None = None
    query_blob: bytes | None = None
    collection: str | None = None
    epoch: Epoch | None = None
    top_k: Annotated[int, Meta(ge=1, le=RESULTS_LIMIT)] = 10
    overfetch: Annotated[int, Meta(ge=0, le=RESULTS_LIMIT)] = 0
    tags: dict[str, str] = {}


class VectorsDelete(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ids: Annotated[list[str], Meta(min_length=1, max_length=ITEMS_LIMIT)]
    collection: str | None = None


class VectorsDeleted(msgspec.Struct, frozen=True):
    deleted: int


class Privacy(msgspec.Struct, frozen=True):
    """What the server can see: ``sealed`` nothing, ``dcpe`` what is alike, ``plain`` everything."""

    mode: str
    beta: float | UnsetType | None = UNSET
    epoch: int | UnsetType = UNSET


class HitRead(msgspec.Struct, frozen=True):
    """``distance_enc`` compares noised vectors, and only within one epoch; ``distance`` exact ones.

    Both are 1 less the cosine.
    """

    id: str
    sealed: bytes
    etag: str
    tags: dict[str, str]
    distance: float | UnsetType = UNSET
    distance_enc: float | UnsetType = UNSET

    @classmethod
    def of(cls, ranked: Ranked, mode: str) -> "HitRead":
        item, distance = ranked
        return cls(
            id=item.item_id,
            sealed=item.sealed,
            etag=_etag(item),
            tags=dict(item.tags),
            distance=distance if mode == "plain" else UNSET,
            distance_enc=distance if mode == "dcpe" else UNSET,
        )


class VectorsFound(msgspec.Struct, frozen=True):
    """Nearest first; ``scanned`` is how many vectors were compared."""

    items: list[HitRead]
    scanned: int
    dimension: int
    privacy: Privacy

    @classmethod
    def of(cls, ranking: Ranking) -> "VectorsFound":
        it = ranking.collection
        return cls(
            items=[HitRead.of(one, it.mode) for one in ranking.items],
            scanned=ranking.scanned,
            dimension=it.dimension,
            privacy=Privacy(it.mode, it.beta, ranking.epoch),
        )


class HitHead(msgspec.Struct, frozen=True):
    """As ``HitRead``, without what is sealed."""

    id: str
    etag: str
    tags: Mapping[str, str]
    distance: float | UnsetType = UNSET
    distance_enc: float | UnsetType = UNSET


class FoundHead(msgspec.Struct, frozen=True):
    """As ``VectorsFound``."""

    items: list[HitHead]
    scanned: int
    dimension: int
    privacy: Privacy

    @classmethod
    def of(cls, ranking: Ranking) -> "FoundHead":
        it = ranking.collection
        is_exact = it.mode == "plain"
        hits = [
            HitHead(
                item.item_id,
                _etag(item),
                item.tags,
                distance if is_exact else UNSET,
                UNSET if is_exact else distance,
            )
            for item, distance in ranking.items
        ]
        return cls(hits, ranking.scanned, it.dimension, Privacy(it.mode, it.beta, ranking.epoch))


def framed(ranking: Ranking) -> bytes:
    """What was found as a list of fields, each behind its length (4 bytes, big-endian): the head in
    JSON, then of each item its id and what is sealed.
    """
    fields = [msgspec.json.encode(FoundHead.of(ranking))]
    for item, _ in ranking.items:
        fields += (item.item_id.encode(), item.sealed)
    return b"".join([part for one in fields for part in (LENGTH.pack(len(one)), one)])


class BlobScored(msgspec.Struct, frozen=True):
    """``score`` is 1 for the same bytes, and 0 for others: nothing else can be known of them."""

    id: str
    score: float
    blob: bytes


class BlobsFound(msgspec.Struct, frozen=True):
    results: list[BlobScored]
    privacy: Privacy

    @classmethod
    def of(cls, alike: Alike) -> "BlobsFound":
        results = [*_scored(alike.equal, 1.0), *_scored(alike.others, 0.0)]
        return cls(results, Privacy(alike.mode))


class VectorRead(msgspec.Struct, frozen=True):
    """An item as it was put. ``vector`` is not there in a sealed collection."""

    id: str
    collection: str
    sealed: bytes
    checksum: str
    etag: str
    seq: int
    epoch: int
    tags: dict[str, str]
    privacy: Privacy
    created_at: int
    updated_at: int
    vector: bytes | UnsetType = UNSET

    @classmethod
    def of(cls, collection: CollectionRow, row: VectorRow) -> "VectorRead":
        return cls(
            id=row.item_id,
            collection=collection.name,
            sealed=row.sealed,
            checksum=row.sha256,
            etag=_etag(row),
            seq=row.seq,
            epoch=row.epoch,
            tags=row.tags,
            privacy=Privacy(collection.mode, collection.beta, row.epoch),
            created_at=milliseconds(row.created_at),
            updated_at=milliseconds(row.updated_at),
            vector=row.vector or UNSET,
        )


def _etag(item: VectorRow | Shown) -> str:
    return quoted(etag_of(item.rev, item.sha256))


def _scored(items: Sequence[Shown], score: float) -> list[BlobScored]:
    return [BlobScored(one.item_id, score, one.sealed) for one in items]
