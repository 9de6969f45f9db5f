"""A cache in Redis or Valkey, shared by every process."""

from collections.abc import AsyncIterator
from typing import Any, cast

from redis import asyncio as redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from app.kernel.errors import Unavailable

PREFIX = "insula:"
TIMEOUT_S = 5.0
HEARTBEAT_S = 30.0
RETRIES = 2
LOST = "News between processes may have been lost."


class CacheDown(Unavailable):
    """Redis does not answer."""

    title = "Cache unavailable"


class RedisCache:
    """``heartbeat_s`` is the longest silence before a listener asks for a sign of life."""

    def __init__(self, url: str, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(ExponentialBackoff(), RETRIES),
        )
        self._heartbeat_s = heartbeat_s

    async def get(self, key: str) -> bytes | None:
        try:
            return cast("bytes | None", await self._redis.get(PREFIX + key))
        except (RedisError, OSError) as error:
            raise CacheDown from error

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        try:
            await self._redis.set(PREFIX + key, value, px=max(1, int(ttl_s * 1000)))
        except (RedisError, OSError) as error:
            raise CacheDown from error

    async def delete(self, key: str) -> None:
        try:
            await self._redis.delete(PREFIX + key)
        except (RedisError, OSError) as error:
            raise CacheDown from error

    async def publish(self, topic: str, message: str) -> None:
        try:
            await self._redis.publish(PREFIX + topic, message)
        except (RedisError, OSError) as error:
            raise CacheDown from error

    async def listen(self, topic: str) -> AsyncIterator[str]:
        """Yield messages. The first is empty and says that the subscription stands."""
        try:
            async with self._redis.pubsub() as channel:
                await channel.subscribe(PREFIX + topic)
                await self._hear(channel)
                yield ""
                # A second subscription means that the client has lost the first, and news with it.
                while (message := await self._hear(channel))["type"] != "subscribe":
                    if message["type"] == "message":
                        yield message["data"].decode()
        except (RedisError, OSError) as error:
            raise CacheDown(LOST) from error
        raise CacheDown(LOST)

    async def ping(self) -> None:
        try:
            await self._redis.ping()
        except (RedisError, OSError) as error:
            raise CacheDown from error

    async def close(self) -> None:
        await self._redis.aclose()

    async def _hear(self, channel: PubSub) -> dict[str, Any]:
        """Wait for whatever comes next; ``CacheDown`` when not even a ping is answered."""
        message = await channel.get_message(timeout=self._heartbeat_s)
        if message is None:
            await channel.ping()
            message = await channel.get_message(timeout=self._heartbeat_s)
        if message is None:
            raise CacheDown(LOST)
        return cast("dict[str, Any]", message)
