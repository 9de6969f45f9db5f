"""What a report asks for and adds up to, and how it is written down."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Final, Literal
from uuid import UUID

import msgspec

from app.modules.billing.domain.limits import UNIT_NANOS

Grouping = Literal["day", "model", "key"]

# What a spreadsheet takes for the beginning of a formula.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


class UsageFilter(msgspec.Struct, frozen=True):
    """Which calls. ``None`` does not select; ``from_ms`` is in, ``to_ms`` is not."""

    user_id: UUID | None = None
    model: str | None = None
    key_id: UUID | None = None
    from_ms: int | None = None
    to_ms: int | None = None


class UsageSum(msgspec.Struct, frozen=True):
    """Calls of one day (ISO), model or key, and what they add up to.

    ``costs_nanos`` is by currency. ``unpriced_calls`` have tokens and no price: their cost is not
    nothing, it is not known.
    """

    group: str
    calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    unpriced_calls: int
    costs_nanos: dict[str, int]


def csv_line(cells: Sequence[object]) -> str:
    """One line of RFC 4180. Text that a spreadsheet would run as a formula gets a quote first."""
    line = io.StringIO()
    csv.writer(line).writerow([_harmless(cell) for cell in cells])
    return line.getvalue()


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(_padded(line, widths) for line in lines)


def money(costs_nanos: Mapping[str, int]) -> str:
    """All digits of every currency: ``0.000150000 EUR, 1.000000000 USD``."""
    return ", ".join(
        f"{nanos // UNIT_NANOS}.{nanos % UNIT_NANOS:09d} {currency}"
        for currency, nanos in sorted(costs_nanos.items())
    )


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _padded(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [line[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
    return "  ".join(cells).rstrip()
