"""Lists that come page by page."""

from __future__ import annotations

from typing import Callable

from ai_spine._call import JSON, Call

PAGE_ITEMS = 100
PAGES_MAX = 10_000


class Pages:
    """Where a walk over a list is.

    Lists change while they are read: what moved to the next page comes once. A server
    that answers everything at once is read once.
    """

    def __init__(
        self, page: Callable[[int, int], Call[list[JSON]]], id_name: str, size: int
    ) -> None:
        self._page = page
        self._id_name = id_name
        self._size = size
        self._seen: set[str] = set()
        self._number = 0
        self._call = page(size, 0)
        self.is_over = False

    @property
    def call(self) -> Call[list[JSON]]:
        """What asks for the next page."""
        return self._call

    def take(self, items: list[JSON]) -> list[JSON]:
        """What of the page is new."""
        fresh = [i for i in items if str(i.get(self._id_name)) not in self._seen]
        self._seen.update(str(i.get(self._id_name)) for i in fresh)
        self._number += 1
        is_full = len(items) == self._size and self._number < PAGES_MAX
        self.is_over = not (is_full and fresh)
        self._call = self._page(self._size, self._number * self._size)
        return fresh
