"""Vectors for tests: items on the wire and in a service, and NumPy's own answer to a search."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.modules.storage.domain.vectors import LEAKAGE_ACK, Item
from tests.modules.storage.desks import Desk

DIMENSION = 8
SEED = 20_240_229


def points(count: int, dimension: int = DIMENSION, seed: int = SEED) -> np.ndarray:
    """Random directions, float32, little-endian."""
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype("<f4")


def item(
    item_id: str,
    vector: Any = b"",
    blob: bytes | None = None,
    tags: Mapping[str, str] | None = None,
) -> Item:
    sealed = f"sealed {item_id}".encode() if blob is None else blob
    raw = vector if isinstance(vector, bytes) else vector.tobytes()
    return Item(item_id, raw, sealed, hashlib.sha256(sealed).hexdigest(), tags or {})


def items(vectors: np.ndarray, prefix: str = "n") -> list[Item]:
    return [item(f"{prefix}{i:05}", vector) for i, vector in enumerate(vectors)]


def on_wire(*given: Item) -> list[dict[str, Any]]:
    """Items as JSON has them."""
    return [
        {
            "id": one.item_id,
            "blob": text(one.sealed),
            "checksum": one.sha256,
            **({"vector": text(one.vector)} if one.vector else {}),
            **({"tags": dict(one.tags)} if one.tags else {}),
        }
        for one in given
    ]


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def unpacked(content: bytes) -> list[bytes]:
    """Fields that lie behind their lengths."""
    fields = []
    while content:
        size = int.from_bytes(content[:4], "big")
        fields.append(content[4 : 4 + size])
        content = content[4 + size :]
    return fields


def brute_force(
    vectors: np.ndarray, names: Sequence[str], query: np.ndarray, limit: int
) -> list[str]:
    """The nearest by cosine in double precision, ties by name."""
    exact, wanted = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(wanted)
    distances = 1.0 - (exact * wanted).sum(axis=1) / lengths
    return [names[i] for i in np.lexsort((np.array(names), distances))[:limit]]


class Library:
    """One caller's collections, over HTTP."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def make(self, name: str = "notes", mode: str = "plain", **more: Any) -> Any:
        wanted: dict[str, Any] = {"mode": mode, "dimension": DIMENSION}
        wanted |= {"beta": 2.0, "leakage_ack": LEAKAGE_ACK} if mode == "dcpe" else {}
        return await self.desk.ask("PUT", f"/collections/{name}", json=wanted | more)

    async def upsert(self, *given: Item, collection: str | None = "notes", **more: Any) -> Any:
        body = {"vectors": on_wire(*given), **more}
        body |= {} if collection is None else {"collection": collection}
        return await self.desk.ask("POST", "/vectors/upsert", json=body)

    async def search(
        self, query: np.ndarray, collection: str = "notes", *, accept: str = "*/*", **more: Any
    ) -> Any:
        body = {"collection": collection, "query": text(query.tobytes()), **more}
        headers = {"accept": accept}
        return await self.desk.ask("POST", "/vectors/search", json=body, headers=headers)

    async def found(self, query: np.ndarray, collection: str = "notes", **more: Any) -> list[str]:
        """The ids that a search answers."""
        answer = await self.search(query, collection, **more)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["items"]]

    async def delete(self, *ids: str, collection: str | None = "notes") -> Any:
        body: dict[str, Any] = {"ids": list(ids)}
        body |= {} if collection is None else {"collection": collection}
        return await self.desk.ask("DELETE", "/vectors", json=body)

    async def get(self, item_id: str, collection: str = "notes") -> Any:
        return await self.desk.ask("GET", f"/vectors/{collection}/{item_id}")

    async def read(self, name: str = "notes") -> Any:
        return await self.desk.ask("GET", f"/collections/{name}")
