"""Prices: what the tokens of a call cost."""

import msgspec

from app.modules.routing.domain.answers import Tokens

FREE = "free"
# A prompt is usually longer than its answer; three to one is how prices are commonly compared.
INPUT_SHARE = 0.75


class Price(msgspec.Struct, frozen=True):
    """Micro-units of ``currency`` for a million tokens: 150 000 is 0.15 a million.

    A kind of token without a price of its own costs what its side costs.
    """

    version: str
    currency: str
    input_micros: int
    output_micros: int
    cached_input_micros: int | None = None
    cache_write_micros: int | None = None
    reasoning_micros: int | None = None
    audio_input_micros: int | None = None
    audio_output_micros: int | None = None


def cost_nanos(tokens: Tokens | None, price: Price | None) -> int | None:
    """Cost in billionths of the currency's unit, rounded half up; ``None`` when not known.

    An answer without a word on its output has none: embeddings count their input alone.
    """
    if tokens is None or price is None or tokens.input is None:
        return None
    told = _side(
        tokens.input,
        price.input_micros,
        (tokens.cached, price.cached_input_micros),
        (tokens.cache_write, price.cache_write_micros),
        (tokens.audio_input, price.audio_input_micros),
    )
    said = _side(
        tokens.output or 0,
        price.output_micros,
        (tokens.reasoning, price.reasoning_micros),
        (tokens.audio_output, price.audio_output_micros),
    )
    return (told + said + 500) // 1000


def most_cost_nanos(input_tokens: int, output_tokens: int, price: Price | None) -> int:
    """The most that a call can cost, 0 where no price is known."""
    if price is None:
        return 0
    dearest_input = max(
        price.input_micros, price.cache_write_micros or 0, price.audio_input_micros or 0
    )
    dearest_output = max(
        price.output_micros, price.reasoning_micros or 0, price.audio_output_micros or 0
    )
    return (input_tokens * dearest_input + output_tokens * dearest_output + 999) // 1000


def blended_micros(price: Price) -> float:
    """One number for a price: three tokens in for each one out, per million."""
    return INPUT_SHARE * price.input_micros + (1.0 - INPUT_SHARE) * price.output_micros


def _side(count: int, micros: int, *parts: tuple[int | None, int | None]) -> int:
    """Price one side: each part at its own price, what is left at the side's."""
    rest, total = count, 0
    for part, own_micros in parts:
        if part and own_micros is not None:
            taken = min(part, rest)
            rest -= taken
            total += taken * own_micros
    return total + rest * micros
