"""Tables of routing: the registry of models, and their prices."""

from sqlalchemy import BigInteger, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.kernel.db import Table


class ModelRow(Table):
    """A name that callers use, and the model it means. From: bundled, discovered or manual."""

    __tablename__ = "routing_models"

    name: Mapped[str] = mapped_column(unique=True)
    upstream: Mapped[str]
    upstream_model: Mapped[str]
    kind: Mapped[str] = mapped_column(default="chat")
    source: Mapped[str]


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
