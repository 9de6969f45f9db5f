"""Vectors: the scan beside NumPy, and what encrypted search costs and finds."""

import asyncio
import base64
import hashlib
import logging
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import numpy as np

from app.asgi import MODULES  # noqa: F401 - importing the modules declares their tables
from app.kernel.db import Database, Table, uuid7
from app.kernel.jobs import JobBook
from app.modules.storage.adapters.blocks import BlockIndex
from app.modules.storage.ports import VectorQuery
from benchmarks.processes import BenchError, Server
from benchmarks.targets import CLIENT_KEY
from insula_vault.collection import Collection, Item
from insula_vault.definition import LEAKAGE_ACK, Definition, Sealer
from insula_vault.keys import RootKey
from insula_vault.wire import Call, Session, Wire

DIMENSION: Final = 384
# More items are more subjects. So many of each make the ranking by ciphertext as hard as that of
# 20 000 paragraphs of documentation, of which it found seven of ten.
CLUSTER_ITEMS: Final = 40
# How fast the spectrum falls, and how far an item lies from its cluster's centre.
DECAY: Final = 0.4
SPREAD: Final = 0.7
COMMON: Final = 0.6
TOP_K: Final = 10
OVERFETCH: Final = 50
QUERIES: Final = 200
UPSERT: Final = 200
SEED: Final = 20_260_101
USER: Final = "00000000-0000-7000-8000-000000000001"
VECTORS: Final = "/api/v1/storage/vectors"
COLLECTIONS: Final = "/api/v1/storage/collections"

Matrix = Any


def corpus(count: int) -> tuple[Matrix, Matrix]:
    """Items and queries as text encoders give them: clusters, few strong directions, a common
    component. float32, ``(n, 384)``.
    """
    draw = np.random.default_rng(SEED)
    scale = (1 + np.arange(DIMENSION)) ** -DECAY
    clusters = count // CLUSTER_ITEMS
    centres = draw.standard_normal((clusters, DIMENSION)) * scale
    shared = COMMON * np.linalg.norm(scale) * _unit(draw.standard_normal((1, DIMENSION)))

    def some(number: int) -> Matrix:
        at = centres[draw.integers(0, clusters, number)]
        apart = draw.standard_normal((number, DIMENSION)) * scale * SPREAD
        return (at + apart + shared).astype(np.float32)

    return some(count), some(QUERIES)


def measure(server: Server, effort: Any, results: Any) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    items, queries = corpus(effort.vectors)
    for ratio in asyncio.run(_scans(items, queries, effort)):
        results.add("scan", ratio[0])
        results.add("product", ratio[1])
    _searches(server, items, queries, effort, results)


async def _scans(items: Matrix, queries: Matrix, effort: Any) -> list[tuple[float, float]]:
    """The embedded index in process, and one product of the same size; medians a round."""
    with tempfile.TemporaryDirectory(prefix="insula-bench-") as folder:
        db = Database(f"sqlite+insula:///{folder}/vectors.db", JobBook())
        collection_id = await _filled(db, f"{folder}/vectors.db", items)
        count = len(items)
        index = BlockIndex(db, folder)
        rounds = []
        for _ in range(effort.rounds):
            scans, products = [], []
            for query in queries[: effort.searches]:
                asked = VectorQuery(
                    collection_id, DIMENSION, count, count, 1, query.tobytes(), TOP_K
                )
                began = time.perf_counter()
                found = await index.search(asked)
                scans.append(time.perf_counter() - began)
                if found.scanned != count:
                    raise BenchError(f"{found.scanned} of {count} vectors were compared")
                began = time.perf_counter()
                items @ query
                products.append(time.perf_counter() - began)
            rounds.append((statistics.median(scans), statistics.median(products)))
        await index.close()
        await db.close()
    return rounds


async def _filled(db: Database, path: str, items: Matrix) -> UUID:
    """A collection of nobody: SQLite minds that only where it is told to."""
    async with db.writer.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    collection_id, now = uuid7(), datetime.now(UTC).isoformat()
    mine = {"user_id": UUID(USER).hex, "created_at": now, "updated_at": now, "epoch": 1}
    same = mine | {"collection_id": collection_id.hex, "rev": 1, "tags": "{}", "is_deleted": 0}
    same |= {"sealed": b"", "sha256": "", "size_bytes": 4 * DIMENSION}
    names = [*same, "id", "item_id", "seq", "collection_seq", "vector"]
    rows = (
        (*same.values(), uuid7().hex, f"item-{number}", number, number, row.tobytes())
        for number, row in enumerate(items, start=1)
    )
    marks = ", ".join("?" * len(names))
    collection = mine | {"id": collection_id.hex, "name": "bench", "mode": "plain", "model": ""}
    collection |= {"is_deleted": 0, "dimension": DIMENSION, "seq": len(items)}
    collection |= {"vector_count": len(items), "size_bytes": 0}
    values = ", ".join("?" * len(collection))
    raw = sqlite3.connect(path)
    raw.execute(
        f"INSERT INTO storage_collections ({', '.join(collection)}) VALUES ({values})",
        [*collection.values()],
    )
    raw.executemany(f"INSERT INTO storage_vectors ({', '.join(names)}) VALUES ({marks})", rows)
    raw.commit()
    raw.close()
    return collection_id


def _searches(server: Server, items: Matrix, queries: Matrix, effort: Any, results: Any) -> None:
    wire = Wire(f"http://127.0.0.1:{server.port}", Session(CLIENT_KEY))
    mean = items.mean(axis=0)
    encoded = base64.b64encode(mean.tobytes()).decode()
    definition = Definition("dcpe", "dcpe", "bench", DIMENSION, 2.0, encoded, (1,))
    sealer = Sealer(RootKey.new(), USER, definition)
    collection = Collection(wire, sealer)
    plain: dict[str, Any] = {"mode": "plain", "dimension": DIMENSION}
    dcpe: dict[str, Any] = {
        "mode": "dcpe",
        "dimension": DIMENSION,
        "beta": 2.0,
        "leakage_ack": LEAKAGE_ACK,
    }
    wire.json(Call("PUT", f"{COLLECTIONS}/plain", json=plain))
    wire.json(Call("PUT", f"{COLLECTIONS}/dcpe", json=dcpe | {"epoch": 1}))
    for start in range(0, len(items), UPSERT):
        page = items[start : start + UPSERT]
        _upsert(wire, start, page)
        collection.upsert([Item(f"item-{start + n}", row) for n, row in enumerate(page)])

    def search_plain(query: Matrix) -> list[str]:
        asked = {"collection": "plain", "query": _text(query), "top_k": TOP_K}
        found = wire.json(Call("POST", f"{VECTORS}/search", json=asked))["items"]
        return [hit["id"] for hit in found]

    def search_dcpe(query: Matrix) -> list[str]:
        return [hit.id for hit in collection.search(query, top_k=TOP_K, overfetch=OVERFETCH)]

    search_plain(queries[0]), search_dcpe(queries[0])
    for _ in range(effort.rounds):
        for name, search in (("search-plain", search_plain), ("search-dcpe", search_dcpe)):
            results.add(name, _median(search, queries[: effort.searches]))
    exact = [_best(items, query) for query in queries]
    raw = [
        _recall(best, [hit.id for hit in collection.search(query, top_k=TOP_K, overfetch=TOP_K)])
        for best, query in zip(exact, queries, strict=True)
    ]
    ranked = [_recall(best, search_dcpe(query)) for best, query in zip(exact, queries, strict=True)]
    results.facts |= {
        "recall": round(statistics.mean(ranked), 4),
        "raw_recall": round(statistics.mean(raw), 4),
    }
    wire.close()


def _upsert(wire: Wire, start: int, page: Matrix) -> None:
    empty = hashlib.sha256().hexdigest()
    vectors = [
        {"id": f"item-{start + n}", "vector": _text(row), "blob": "", "checksum": empty}
        for n, row in enumerate(page)
    ]
    body = {"collection": "plain", "vectors": vectors}
    wire.json(Call("POST", f"{VECTORS}/upsert", json=body))


def _median(search: Callable[[Matrix], object], queries: Matrix) -> float:
    took = []
    for query in queries:
        began = time.perf_counter()
        search(query)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _best(items: Matrix, query: Matrix) -> set[str]:
    """The ids of the exact search by cosine."""
    scores = _unit(items) @ _unit(query[None])[0]
    return {f"item-{number}" for number in np.argsort(-scores)[:TOP_K]}


def _recall(best: set[str], found: list[str]) -> float:
    return len(best & set(found)) / len(best)


def _unit(rows: Matrix) -> Matrix:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _text(row: Matrix) -> str:
    return base64.b64encode(np.ascontiguousarray(row, dtype="<f4").tobytes()).decode()
