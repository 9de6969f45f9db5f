"""What the Messages API says of a call's tokens.

Anthropic counts the tokens read from its cache and those written to it beside the input's, not
within them.
"""

import msgspec


class OutputDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int | None = None


class MessageUsage(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "cache_read_tokens": "cache_read_input_tokens",
        "cache_write_tokens": "cache_creation_input_tokens",
    },
):
    """Tokens of one call. ``None`` is "not told", which is not the same as none."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None

    @property
    def prompt_tokens(self) -> int | None:
        """All tokens that went in, the cached ones included."""
        if self.input_tokens is None:
            return None
        return self.input_tokens + (self.cache_read_tokens or 0) + (self.cache_write_tokens or 0)

    @property
    def thinking_tokens(self) -> int | None:
        """The part of the output that was thought."""
        return self.output_tokens_details.thinking_tokens if self.output_tokens_details else None

    def merged(self, later: "MessageUsage") -> "MessageUsage":
        """Counts of a later event are totals, and replace those before them."""
        names = self.__struct_fields__
        told = {name: v for name in names if (v := getattr(later, name)) is not None}
        return msgspec.structs.replace(self, **told)
