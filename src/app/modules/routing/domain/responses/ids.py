"""Ids of responses and of their items.

A response is named after its call: ``resp_`` and the call's UUID in hexadecimal. An item is named
after its response: kind, the same digits, and its place, with ``i`` before it among the input.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from app.modules.routing.domain.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    Reasoning,
)

RESPONSE_ID: Final = re.compile(r"resp_([0-9a-f]{32})")
ITEM_ID: Final = re.compile(r"[a-z]+_([0-9a-f]{32})_i?[0-9]+")
PREFIXES: Final[Mapping[type[Item], str]] = {
    Message: "msg",
    FunctionCall: "fc",
    FunctionCallOutput: "fco",
    Reasoning: "rs",
}


def response_id(call_id: UUID) -> str:
    """The id that the answer to a call has outside."""
    return f"resp_{call_id.hex}"


def call_of(given: str) -> UUID | None:
    """The call behind a response's id, or an item's; ``None`` for ids that we did not make."""
    found = RESPONSE_ID.fullmatch(given) or ITEM_ID.fullmatch(given)
    return UUID(hex=found[1]) if found else None


def item_id(kind: type[Item], response: str, mark: int | str) -> str:
    """Make the id of an item at the place ``mark`` of ``response``."""
    return f"{PREFIXES[kind]}_{response.removeprefix('resp_')}_{mark}"


def named(items: Sequence[Item], response: str) -> tuple[Item, ...]:
    """Give an id to each input item that has none yet."""
    return tuple(
        item
        if item.id
        else msgspec.structs.replace(item, id=item_id(type(item), response, f"i{place}"))
        for place, item in enumerate(items)
    )


def made_call_id(response: str, place: int) -> str:
    """Name a function call that the model's server has left without a name."""
    return f"call_{response.removeprefix('resp_')}_{place}"
