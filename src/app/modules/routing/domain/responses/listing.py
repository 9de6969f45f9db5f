"""Pages of a response's input items."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from app.kernel.errors import Invalid
from app.modules.routing.domain.responses.items import Item

Order = Literal["asc", "desc"]


class CursorUnknown(Invalid):
    """``after`` is no item of this response."""

    title = "Cursor unknown"


class ItemList(msgspec.Struct, frozen=True):
    """One page. ``last_id`` asks for the page after it."""

    data: Sequence[Item]
    has_more: bool
    first_id: str
    last_id: str
    object: Literal["list"] = "list"


def page(items: Sequence[Item], *, after: str | None, limit: int, order: Order) -> ItemList:
    """Up to ``limit`` items that follow ``after``; ``desc`` shows the last one first."""
    found = list(items) if order == "asc" else list(reversed(items))
    if after is not None:
        ids = [item.id for item in found]
        if after not in ids:
            text = f"This response has no input item {after[:100]!r}."
            raise CursorUnknown(text, param="after")
        found = found[ids.index(after) + 1 :]
    shown = found[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else ("", "")
    return ItemList(shown, len(found) > limit, first or "", last or "")
