"""What was used last, within limits."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps ``limit`` values at most, and ``limit_bytes`` of what they were made of; whatever was
    not asked for the longest goes first.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._size_bytes = 0

    def get(self, key: K) -> V | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value, also one that is too large by itself, until the next one comes."""
        self._forget(key)
        while self._kept and self._is_full(size_bytes):
            self._forget(next(iter(self._kept)))
        self._kept[key] = (value, size_bytes)
        self._size_bytes += size_bytes

    def _is_full(self, more_bytes: int) -> bool:
        return len(self._kept) >= self._limit or self._size_bytes + more_bytes > self._limit_bytes

    def _forget(self, key: K) -> None:
        if key in self._kept:
            self._size_bytes -= self._kept.pop(key)[1]
