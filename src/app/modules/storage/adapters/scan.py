"""Cosine distances over float32 vectors, exact in order: in double precision, ties by id."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

from app.modules.storage.ports import Found, Hit

# Rows that are compared once more in double precision, at a time.
EXACT_ROWS: Final = 4096
# Below one in so many, the rows to compare are picked out first.
SPARSE: Final = 8
# Half of the distance between 1 and the next number in single precision.
ROUNDING: Final = 2.0**-24

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
FLOAT: Final = np.dtype("<f4")


class View(msgspec.Struct, frozen=True):
    """A collection at one moment: a row each for its vectors, and for what is known of them.

    ``rows`` has ``item``, ``seq``, ``tags`` and ``length``; ``scales`` are the lengths' inverses.
    No row has more than ``most_tags``.
    """

    rows: Array
    vectors: Array
    is_live: Array
    epochs: Array
    scales: Array
    most_tags: int
    salt: bytes

    def nearest(self, vector: bytes, limit: int, epoch: int, tags: Mapping[str, str]) -> Found:
        """The ``limit`` nearest by cosine, nearest first."""
        allowed = self.is_live & (self.epochs == epoch)
        for name, value in tags.items():
            allowed &= self._has_tag(tag_key(self.salt, name, value))
        scanned = int(np.count_nonzero(allowed))
        if scanned == 0:
            return Found([], 0)
        query = unit(vector)
        rows = self._candidates(query.astype(FLOAT), allowed, scanned, limit)
        found = self.rows[rows]
        distances = _distances(self.vectors, rows, found["length"], query)
        return Found(_hits(found["item"], found["seq"], distances, limit), scanned)

    def _has_tag(self, key: int) -> Array:
        # A column at a time, and only those that are used: `any` over rows of a few is slow.
        found = np.zeros(len(self.rows), np.bool_)
        for i in range(self.most_tags):
            found |= self.rows["tags"][:, i] == key
        return found

    def _candidates(self, query: Array, allowed: Array, scanned: int, limit: int) -> Array:
        """All rows that may be among the nearest, since single precision is off by a little."""
        if scanned <= limit:
            return np.flatnonzero(allowed)
        if scanned * SPARSE < len(allowed):
            rows = np.flatnonzero(allowed)
            scores = (self.vectors[rows] @ query) * self.scales[rows]
            return rows[_is_near(scores, limit, len(query))]
        scores = self.vectors @ query
        scores *= self.scales
        scores[~allowed] = -np.inf
        return np.flatnonzero(_is_near(scores, limit, len(query)))


def rank(
    vectors: Sequence[Sequence[float]],
    item_ids: Sequence[str],
    seqs: Sequence[int],
    query: bytes,
    limit: int,
) -> list[Hit]:
    """Order a few vectors by their exact distances."""
    if not vectors:
        return []
    matrix = np.array(vectors, FLOAT)
    rows = np.arange(len(vectors))
    distances = _distances(matrix, rows, lengths(matrix), unit(query))
    return _hits(np.array([one.encode() for one in item_ids]), np.array(seqs), distances, limit)


def unit(vector: bytes) -> Array:
    """The vector at length 1, in double precision."""
    exact = np.frombuffer(vector, FLOAT).astype(np.float64)
    scaled: Array = exact / np.sqrt((exact * exact).sum())
    return scaled


def lengths(vectors: Array) -> Array:
    """Euclidean lengths of rows, in double precision."""
    exact = vectors.astype(np.float64)
    found: Array = np.sqrt((exact * exact).sum(axis=1))
    return found


def item_key(salt: bytes, item_id: str) -> int:
    """A name of 64 bits; two of one collection never meet in practice."""
    return int.from_bytes(blake2b(item_id.encode(), digest_size=8, key=salt).digest(), "little")


def tag_key(salt: bytes, name: str, value: str) -> int:
    """As ``item_key``; 0 is no tag. Who shows what was found compares the tags themselves."""
    text = msgspec.json.encode((name, value))
    digest = blake2b(text, digest_size=8, key=salt, person=b"tag").digest()
    return int.from_bytes(digest, "little") or 1


def _is_near(scores: Array, limit: int, dimension: int) -> Array:
    """Which scores are among the ``limit`` highest, or so close that they may be."""
    last = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    found: Array = scores >= last - 2 * (dimension + 8) * ROUNDING
    return found


def _distances(vectors: Array, rows: Array, their_lengths: Array, query: Array) -> Array:
    """Row by row, not as one product, so that equal vectors are equally far."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), EXACT_ROWS):
        part = slice(start, start + EXACT_ROWS)
        exact = vectors[rows[part]].astype(np.float64)
        found[part] = 1.0 - (exact * query).sum(axis=1) / their_lengths[part]
    return found


def _hits(items: Array, seqs: Array, distances: Array, limit: int) -> list[Hit]:
    order = np.lexsort((items, distances))[:limit]
    return [Hit(items[i].decode(), int(seqs[i]), float(distances[i])) for i in order]
