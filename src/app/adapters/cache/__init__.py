"""Chooses the cache."""

from app.adapters.cache.memory import MemoryCache
from app.kernel.ports import Cache


def open_cache(redis_url: str | None) -> Cache:
    if redis_url is None:
        return MemoryCache()
    from app.adapters.cache.redis import RedisCache

    return RedisCache(redis_url)
