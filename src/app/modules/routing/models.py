"""Tables of routing: the registry of models, their prices, and whose answers are cached."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table, Timestamp


class AliasRow(Table):
    """How one name chooses among its models, where it has several. Without one: in order."""

    __tablename__ = "routing_aliases"

    name: Mapped[str] = mapped_column(unique=True)
    policy: Mapped[str]


class ModelRow(Table):
    """One place where a name leads. From: bundled, discovered or manual.

    A name that was found has one place; one that a person made may have several, by ``position``.
    Time-outs are in seconds, phase by phase; ``None`` is the installation's own.
    """

    __tablename__ = "routing_models"
    __table_args__ = (
        UniqueConstraint("name", "upstream", "upstream_model"),
        Index(
            "uq_routing_models_found",
            "name",
            unique=True,
            sqlite_where=text("source != 'manual'"),
            postgresql_where=text("source != 'manual'"),
        ),
    )

    name: Mapped[str]
    upstream: Mapped[str]
    upstream_model: Mapped[str]
    kind: Mapped[str] = mapped_column(default="chat")
    source: Mapped[str]
    position: Mapped[int] = mapped_column(default=0)
    weight: Mapped[int] = mapped_column(default=1)
    connect_timeout_s: Mapped[float | None]
    first_byte_timeout_s: Mapped[float | None]
    idle_timeout_s: Mapped[float | None]
    deadline_s: Mapped[float | None]
    quality: Mapped[str] = mapped_column(default="good")
    capabilities: Mapped[str] = mapped_column(default="")
    context_tokens: Mapped[int] = mapped_column(default=0)


class PriceRow(Table):
    """What a model cost in one version of the price list. Rows are added, never changed."""

    __tablename__ = "routing_prices"
    __table_args__ = (UniqueConstraint("upstream", "model", "version"),)

    upstream: Mapped[str]
    model: Mapped[str]
    version: Mapped[str]
    currency: Mapped[str]
    input_micros: Mapped[int] = mapped_column(BigInteger)
    output_micros: Mapped[int] = mapped_column(BigInteger)
    cached_input_micros: Mapped[int | None] = mapped_column(BigInteger)
    cache_write_micros: Mapped[int | None] = mapped_column(BigInteger)
    reasoning_micros: Mapped[int | None] = mapped_column(BigInteger)
    audio_input_micros: Mapped[int | None] = mapped_column(BigInteger)
    audio_output_micros: Mapped[int | None] = mapped_column(BigInteger)


class CacheRow(Table):
    """A key whose equal requests are answered from the cache, and for how long."""

    __tablename__ = "routing_caches"

    credential_id: Mapped[UUID] = mapped_column(unique=True)
    ttl_s: Mapped[int]


class WorkerRow(Table):
    """A server that registered itself, and when it was last heard of.

    A shared one is the owner's and serves everybody, any other serves its user. ``parallel`` is
    how many calls it takes at once, 0 for the installation's own limit.
    """

    __tablename__ = "routing_workers"

    name: Mapped[str] = mapped_column(unique=True)
    user_id: Mapped[UUID] = mapped_column(index=True)
    is_shared: Mapped[bool]
    endpoint: Mapped[str]
    dialect: Mapped[str]
    models: Mapped[list[str]] = mapped_column(JSON)
    key_sealed: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    queue_length: Mapped[int] = mapped_column(default=0)
    parallel: Mapped[int] = mapped_column(default=0)
    heartbeat_at: Mapped[datetime] = mapped_column(Timestamp, index=True)


class ResponseRow(Table):
    """A response that its caller may come back to. ``id`` is its call's, in ``resp_<id>`` too.

    What was said is sealed: nobody reads it in the database. ``size_bytes`` is that of both texts.
    """

    __tablename__ = "routing_responses"

    user_id: Mapped[UUID]
    previous_id: Mapped[UUID | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    input_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    response_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime] = mapped_column(Timestamp, index=True)
