"""Price files: the bundled list, and lists that an installation imports."""

from decimal import Decimal
from importlib.resources import files

import msgspec

from app.modules.routing.domain.names import kind_of
from app.modules.routing.models import ModelRow, PriceRow


class PriceEntry(msgspec.Struct, frozen=True):
    """One line of a price file; prices are decimal texts for a million tokens."""

    upstream: str
    model: str
    input: str
    output: str
    cached_input: str | None = None
    cache_write: str | None = None
    reasoning: str | None = None
    audio_input: str | None = None
    audio_output: str | None = None
    name: str | None = None


class PriceFile(msgspec.Struct, frozen=True):
    """A versioned list of models and prices: the bundled one, or one for ``models import``."""

    version: str
    currency: str
    models: list[PriceEntry]
    unit: str = ""


def bundled_prices() -> PriceFile:
    """Read the price file that comes with this version."""
    text = files("app.modules.routing").joinpath("prices.json").read_bytes()
    return msgspec.json.decode(text, type=PriceFile)


def model_row(entry: PriceEntry, source: str) -> ModelRow:
    return ModelRow(
        name=entry.name or entry.model,
        upstream=entry.upstream,
        upstream_model=entry.model,
        kind=kind_of(entry.model),
        source=source,
    )


def price_row(entry: PriceEntry, listed: PriceFile) -> PriceRow:
    return PriceRow(
        upstream=entry.upstream,
        model=entry.model,
        version=listed.version,
        currency=listed.currency,
        input_micros=_micros(entry.input),
        output_micros=_micros(entry.output),
        cached_input_micros=_micros(entry.cached_input),
        cache_write_micros=_micros(entry.cache_write),
        reasoning_micros=_micros(entry.reasoning),
        audio_input_micros=_micros(entry.audio_input),
        audio_output_micros=_micros(entry.audio_output),
    )


def _micros(text: str | None) -> int | None:
    """Millionths of a unit, exactly."""
    return None if text is None else int(Decimal(text) * 1_000_000)
