"""Ranks vectors by pgvector: small collections by an exact scan, large ones by HNSW.

A table beside the vectors follows them, as the embedded index does, and not in the transaction of
a write: so vectors are stored where the extension is missing, and building HNSW delays no writer.
What goes with a collection or a user goes from it by its foreign key.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, REAL, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.errors import NotBuilt, Unavailable
from app.modules.storage.domain.vectors import FLOAT_BYTES
from app.modules.storage.ports import Found, Hit, VectorQuery
from app.modules.storage.repository.vectors import Step, VectorRepository

FOLLOW_ROWS: Final = 200
PAGES_LIMIT: Final = 1_000_000
# Up to so many vectors a scan of all takes a few hundredths of a second, and misses none.
EXACT_ROWS: Final = 50_000
# pgvector cannot index more dimensions, so those are always scanned.
INDEXED_DIMENSIONS: Final = 2000
# pgvector computes in single precision: so many more are taken, and ordered exactly.
SPARE_ROWS: Final = 64
EF_SEARCH_LIMIT: Final = 1000
NOT_ALLOWED: Final = "42501"
# Iterative scans, which a filter needs, came with it.
OLDEST: Final = (0, 8)

TABLE: Final = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    """
    CREATE TABLE IF NOT EXISTS storage_vector_index (
      vector_id uuid PRIMARY KEY REFERENCES storage_vectors (id) ON DELETE CASCADE,
      collection_id uuid NOT NULL,
      item_id text COLLATE "C" NOT NULL,
      seq bigint NOT NULL,
      epoch integer NOT NULL,
      dimension integer NOT NULL,
      tags jsonb NOT NULL,
      embedding vector
    )
    """,
    """
    CREATE INDEX IF NOT EXISTS ix_storage_vector_index_collection_id_seq
    ON storage_vector_index (collection_id, seq)
    """,
)
HNSW: Final = """
    CREATE INDEX IF NOT EXISTS ix_storage_vector_index_hnsw_{dimension}
    ON storage_vector_index USING hnsw ((embedding::vector({dimension})) vector_cosine_ops)
    WHERE dimension = {dimension}
"""
VERSION: Final = text(
    "SELECT coalesce(installed_version, default_version) FROM pg_available_extensions "
    "WHERE name = 'vector'"
)
# One process at a time follows a collection, or makes what all share.
TURN: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
APPLIED: Final = text(
    "SELECT coalesce(max(seq), 0) FROM storage_vector_index WHERE collection_id = :collection_id"
)
PUT: Final = text(
    """
    INSERT INTO storage_vector_index AS known
      (vector_id, collection_id, item_id, seq, epoch, dimension, tags, embedding)
    VALUES
      (:vector_id, :collection_id, :item_id, :seq, :epoch, :dimension, CAST(:tags AS jsonb),
       CAST(:embedding AS vector))
    ON CONFLICT (vector_id) DO UPDATE
    SET (seq, epoch, tags, embedding) =
      (excluded.seq, excluded.epoch, excluded.tags, excluded.embedding)
    """
).bindparams(bindparam("embedding", type_=ARRAY(REAL)))
WANTED: Final = """
      collection_id = :collection_id AND epoch = :epoch AND embedding IS NOT NULL
      AND tags @> CAST(:tags AS jsonb)
"""
# Materialized, so that no index is used, and every vector that is wanted is compared.
EXACT: Final = f"""
    WITH compared AS MATERIALIZED (
      SELECT vector_id, item_id, seq, embedding <=> CAST(:query AS vector) AS distance
      FROM storage_vector_index WHERE {WANTED}
    ), counted AS (SELECT count(*) AS scanned FROM compared),
    near AS (SELECT * FROM compared ORDER BY distance, item_id LIMIT :limit)
"""  # noqa: S608 - nothing in it comes from a caller
NEAR: Final = f"""
    WITH near AS MATERIALIZED (
      SELECT vector_id, item_id, seq FROM storage_vector_index
      WHERE {WANTED} AND dimension = {{dimension}}
      ORDER BY (embedding::vector({{dimension}})) <=> CAST(:query AS vector({{dimension}}))
      LIMIT :limit
    ), counted AS (SELECT count(*) AS scanned FROM near)
"""  # noqa: S608 - a number is put in, which is the collection's
READ: Final = """
    SELECT near.item_id, near.seq, CAST(indexed.embedding AS real[]) AS vector, counted.scanned
    FROM near JOIN storage_vector_index AS indexed USING (vector_id) CROSS JOIN counted
"""


class VectorsNotBuilt(NotBuilt):
    """This PostgreSQL cannot rank vectors. They are stored, and found once it can."""

    title = "Vector search not installed"


class IndexBusy(Unavailable):
    """Others write faster than the index can follow."""

    title = "Vector index busy"


class PgVectorIndex:
    """Collections above ``exact_rows`` vectors are ranked by HNSW, which may miss some."""

    def __init__(self, db: Database, exact_rows: int = EXACT_ROWS) -> None:
        self._db = db
        self._exact_rows = exact_rows
        self._dimensions: set[int] = set()

    async def search(self, query: VectorQuery) -> Found:
        await self._build(query.dimension)
        await self._follow(query)
        async with self._db.read() as session:
            found = await self._near(session, query)
        rows, scanned = found
        ids, seqs = [row.item_id for row in rows], [row.seq for row in rows]
        vectors = [row.vector for row in rows]
        hits = await asyncio.to_thread(_rank, vectors, ids, seqs, query.vector, query.limit)
        return Found(hits, scanned)

    async def forget(self, collection_id: UUID) -> None:
        await self._remove("collection_id = :collection_id", collection_id=collection_id)

    async def tidy(self) -> None:
        await self._remove("collection_id IN (SELECT id FROM storage_collections WHERE is_deleted)")

    async def close(self) -> None:
        """Nothing is open."""

    async def _remove(self, which: str, **values: Any) -> None:
        async with self._db.begin() as session:
            if await session.scalar(text("SELECT to_regclass('storage_vector_index')")):
                gone = text(f"DELETE FROM storage_vector_index WHERE {which}")  # noqa: S608 - ours
                await session.execute(gone, values)

    async def _build(self, dimension: int) -> None:
        """Make the table, and while no vector of this dimension is there yet, its HNSW index."""
        if dimension in self._dimensions:
            return
        try:
            async with self._db.begin() as session:
                await _require_version(session)
                await session.execute(TURN, {"name": "storage_vector_index"})
                for statement in TABLE:
                    await session.execute(text(statement))
                if dimension <= INDEXED_DIMENSIONS:
                    await session.execute(text(HNSW.format(dimension=dimension)))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != NOT_ALLOWED:
                raise
            raise VectorsNotBuilt(
                "This database user cannot install pgvector: run `CREATE EXTENSION vector` as "
                "the database's superuser."
            ) from error
        self._dimensions.add(dimension)

    async def _follow(self, query: VectorQuery) -> None:
        """Take in what was committed since."""
        for _ in range(PAGES_LIMIT):
            async with self._db.read() as session:
                if await self._applied(session, query.collection_id) >= query.seq:
                    return
            if await self._follow_page(query) < FOLLOW_ROWS:
                return
        raise IndexBusy("Vectors kept coming; search again.")

    async def _follow_page(self, query: VectorQuery) -> int:
        async with self._db.begin() as session:
            await session.execute(TURN, {"name": str(query.collection_id)})
            after_seq = await self._applied(session, query.collection_id)
            vectors = VectorRepository(session)
            steps = await vectors.steps(query.collection_id, after_seq, FOLLOW_ROWS)
            if steps:
                await session.execute(PUT, _rows(query, steps))
        return len(steps)

    async def _applied(self, session: AsyncSession, collection_id: UUID) -> int:
        return int(await session.scalar(APPLIED, {"collection_id": collection_id}) or 0)

    async def _near(self, session: AsyncSession, query: VectorQuery) -> tuple[Sequence[Any], int]:
        """Some more rows than asked for, and how many were compared."""
        values = {
            "collection_id": query.collection_id,
            "epoch": query.epoch,
            "tags": msgspec.json.encode(query.tags).decode(),
            "query": _numbers(query.vector),
            "limit": query.limit + SPARE_ROWS,
        }
        rows: Sequence[Any] = []
        if query.count > self._exact_rows and query.dimension <= INDEXED_DIMENSIONS:
            await _prepare(session, query.limit + SPARE_ROWS)
            rows = await _ask(session, NEAR.format(dimension=query.dimension), values)
        # Where a filter leaves few of many, the index gives up early; a scan does not.
        if len(rows) < query.limit:
            rows = await _ask(session, EXACT, values)
        return rows, rows[0].scanned if rows else 0


async def _require_version(session: AsyncSession) -> None:
    version = await session.scalar(VERSION)
    if version is None or tuple(map(int, str(version).split(".")[:2])) < OLDEST:
        raise VectorsNotBuilt(
            "This PostgreSQL has no pgvector of version 0.8 or newer; install it."
        )


async def _prepare(session: AsyncSession, wanted: int) -> None:
    """Go on in the index until enough rows pass the filter."""
    ef_search = min(2 * wanted, EF_SEARCH_LIMIT)
    await session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
    await session.execute(text(f"SET LOCAL hnsw.ef_search = {ef_search}"))


async def _ask(session: AsyncSession, near: str, values: dict[str, Any]) -> Sequence[Any]:
    asked = text(near + READ).bindparams(bindparam("query", type_=ARRAY(REAL)))
    return (await session.execute(asked, values)).all()


def _rows(query: VectorQuery, steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [
        {
            "vector_id": step.vector_id,
            "collection_id": query.collection_id,
            "item_id": step.item_id,
            "seq": step.seq,
            "epoch": step.epoch,
            "dimension": query.dimension,
            "tags": msgspec.json.encode(step.tags).decode(),
            "embedding": None if step.is_deleted else _numbers(step.vector),
        }
        for step in steps
    ]


def _numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // FLOAT_BYTES}f", vector))


def _rank(
    vectors: Sequence[Sequence[float]],
    item_ids: Sequence[str],
    seqs: Sequence[int],
    query: bytes,
    limit: int,
) -> list[Hit]:
    from app.modules.storage.adapters.scan import rank  # noqa: PLC0415 - numpy starts slowly

    return rank(vectors, item_ids, seqs, query, limit)
