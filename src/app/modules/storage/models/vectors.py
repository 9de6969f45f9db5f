"""Collections of vectors."""

from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class CollectionRow(Table):
    """Vectors of one user, of one mode: ``sealed``, ``dcpe`` or ``plain``.

    ``dimension`` is 0 where nobody said. ``seq`` counts the changes of its vectors, and
    ``vector_count`` those that are there, so that whoever keeps an index beside the table knows
    how far it is, and whether it has them all. ``beta`` is the noise that the client says it adds.
    A deleted one stays as long as its tombstones do; its name is free.
    """

    __tablename__ = "storage_collections"
    __table_args__ = (
        Index(
            "ix_storage_collections_user_id_name",
            "user_id",
            "name",
            unique=True,
            sqlite_where=text("NOT is_deleted"),
            postgresql_where=text("NOT is_deleted"),
        ),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(64))
    is_deleted: Mapped[bool] = mapped_column(default=False)
    mode: Mapped[str] = mapped_column(String(8))
    dimension: Mapped[int]
    model: Mapped[str] = mapped_column(String(128))
    epoch: Mapped[int]
    beta: Mapped[float | None]
    seq: Mapped[int] = mapped_column(BigInteger, default=0)
    vector_count: Mapped[int] = mapped_column(BigInteger, default=0)
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class VectorRow(Table):
    """One vector, or the tombstone of one. ``sealed`` is the client's own, opaque.

    ``vector`` is float32, little-endian, and empty in a sealed collection. ``seq`` is the
    account's, ``collection_seq`` its collection's. ``sha256`` is that of ``sealed``,
    ``size_bytes`` what the two count for.
    """

    __tablename__ = "storage_vectors"
    __table_args__ = (
        Index("ix_storage_vectors_collection_id_item_id", "collection_id", "item_id", unique=True),
        Index("ix_storage_vectors_collection_id_collection_seq", "collection_id", "collection_seq"),
        Index("ix_storage_vectors_collection_id_sha256", "collection_id", "sha256"),
        Index("ix_storage_vectors_user_id_seq", "user_id", "seq", unique=True),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("auth_users.id", ondelete="CASCADE"))
    collection_id: Mapped[UUID] = mapped_column(
        ForeignKey("storage_collections.id", ondelete="CASCADE")
    )
    item_id: Mapped[str] = mapped_column(String(64))
    seq: Mapped[int] = mapped_column(BigInteger)
    collection_seq: Mapped[int] = mapped_column(BigInteger)
    rev: Mapped[int] = mapped_column(BigInteger)
    is_deleted: Mapped[bool]
    epoch: Mapped[int]
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    tags: Mapped[dict[str, str]] = mapped_column(JSON)
