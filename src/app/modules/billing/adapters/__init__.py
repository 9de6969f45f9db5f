"""Chooses where holds are counted."""

from typing import TYPE_CHECKING

from app.modules.billing.adapters.memory import MemoryHolds

if TYPE_CHECKING:
    from app.modules.billing.adapters.redis import RedisHolds


def open_holds(redis_url: str | None) -> "MemoryHolds | RedisHolds":
    if redis_url is None:
        return MemoryHolds()
    from app.modules.billing.adapters.redis import RedisHolds

    return RedisHolds(redis_url)
