"""What an answer used, as the Responses API says it."""

import msgspec

from app.modules.routing.domain.answers import Tokens


class InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0


class ResponsesUsage(msgspec.Struct, frozen=True):
    """Tokens of one response. Cached ones are part of the input, reasoning is of the output."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int

    @classmethod
    def of(cls, tokens: Tokens) -> "ResponsesUsage":
        """The API has no word for "not told": it is none here, though not on the bill."""
        told, said = tokens.input or 0, tokens.output or 0
        return cls(
            told,
            InputDetails(tokens.cached or 0, tokens.cache_write or 0),
            said,
            OutputDetails(tokens.reasoning or 0),
            told + said,
        )
