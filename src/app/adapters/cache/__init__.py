"""Chooses the cache."""

from typing import TYPE_CHECKING

from app.adapters.cache.memory import MemoryCache

if TYPE_CHECKING:
    from app.adapters.cache.redis import RedisCache


def open_cache(redis_url: str | None) -> "MemoryCache | RedisCache":
    if redis_url is None:
        return MemoryCache()
    from app.adapters.cache.redis import RedisCache

    return RedisCache(redis_url)
