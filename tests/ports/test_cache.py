"""Caches: one suite for the one in the process and the one in Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from redis import asyncio as redis

from app.adapters.cache import open_cache
from app.adapters.cache.memory import MAX_BACKLOG, MAX_BYTES, MAX_ENTRIES, MemoryCache
from app.adapters.cache.redis import RedisCache
from app.kernel.errors import Unavailable
from app.kernel.ports import Cache
from tests import services
from tests.waiting import until


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    if request.param == "memory":
        cache: Cache = MemoryCache()
    else:
        # A synchronous fixture: pytest has started the server before this loop runs.
        cache = RedisCache(request.getfixturevalue("redis_url"))
    yield cache
    await cache.close()


@pytest.fixture
async def other(cache: Cache, request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    """What another process holds; the cache in the process has no other."""
    if isinstance(cache, MemoryCache):
        yield cache
    else:
        other = RedisCache(request.getfixturevalue("redis_url"))
        yield other
        await other.close()


@pytest.fixture
def server():
    """A Valkey of this test's own, to be mistreated."""
    with services.valkey() as server:
        yield server


class TestGet:
    async def test_finds_nothing_under_a_key_never_set(self, cache):
        assert await cache.get("unknown") is None

    async def test_finds_what_another_process_set(self, cache, other):
        await other.set("key", b"\x00\xffvalue", ttl_s=60)

        assert await cache.get("key") == b"\x00\xffvalue"

    async def test_finds_the_latest_value(self, cache):
        await cache.set("key", b"old", ttl_s=60)
        await cache.set("key", b"new", ttl_s=60)

        assert await cache.get("key") == b"new"


class TestSet:
    async def test_forgets_when_the_time_is_up(self, cache):
        await cache.set("short", b"value", ttl_s=0.05)
        await cache.set("long", b"value", ttl_s=60)

        async def is_gone() -> bool:
            return await cache.get("short") is None

        await until(is_gone)

        assert await cache.get("long") == b"value"

    async def test_takes_a_time_shorter_than_a_millisecond(self, cache):
        await cache.set("key", b"value", ttl_s=0.0001)

        async def is_gone() -> bool:
            return await cache.get("key") is None

        assert await until(is_gone)

    async def test_drops_the_least_recently_used_of_too_many(self):
        cache = MemoryCache()
        await cache.set("old", b"value", ttl_s=60)
        await cache.set("used", b"value", ttl_s=60)
        for number in range(MAX_ENTRIES - 2):
            await cache.set(str(number), b"value", ttl_s=60)
        await cache.get("used")

        await cache.set("one more", b"value", ttl_s=60)

        assert await cache.get("old") is None
        assert await cache.get("used") == b"value"

    async def test_drops_the_least_recently_used_of_too_much(self):
        cache = MemoryCache()
        half = b"x" * (MAX_BYTES // 2)
        await cache.set("old", half, ttl_s=60)
        await cache.set("used", half, ttl_s=60)
        await cache.set("used", half, ttl_s=60)

        await cache.set("one more", b"value", ttl_s=60)

        assert await cache.get("old") is None
        assert await cache.get("used") == half


class TestDelete:
    async def test_removes_a_value(self, cache, other):
        await cache.set("key", b"value", ttl_s=60)

        await other.delete("key")

        assert await cache.get("key") is None

    async def test_does_not_mind_what_is_not_there(self, cache):
        await cache.delete("unknown")


class TestListen:
    async def test_says_first_that_nothing_is_missed_from_here_on(self, cache):
        async with aclosing(cache.listen("topic")) as news:
            assert await anext(news) == ""

    async def test_hears_another_process_in_order(self, cache, other):
        async with aclosing(cache.listen("topic")) as news:
            await anext(news)
            for number in range(100):
                await other.publish("topic", f"message {number} é")

            heard = [await anext(news) for _ in range(100)]

        assert heard == [f"message {number} é" for number in range(100)]

    async def test_hears_its_own_process_as_well(self, cache):
        async with aclosing(cache.listen("topic")) as news:
            await anext(news)

            await cache.publish("topic", "hello")

            assert await anext(news) == "hello"

    async def test_hears_its_own_topic_only(self, cache, other):
        async with aclosing(cache.listen("mine")) as news:
            await anext(news)

            await other.publish("yours", "no")
            await other.publish("mine", "yes")

            assert await anext(news) == "yes"

    async def test_reaches_every_listener(self, cache, other):
        async with aclosing(cache.listen("topic")) as one, aclosing(other.listen("topic")) as two:
            await anext(one)
            await anext(two)

            await cache.publish("topic", "hello")

            assert (await anext(one), await anext(two)) == ("hello", "hello")

    async def test_leaves_the_others_when_one_stops(self, cache, other):
        async with aclosing(cache.listen("topic")) as stays:
            await anext(stays)
            async with aclosing(other.listen("topic")) as leaves:
                await anext(leaves)

            await cache.publish("topic", "hello")

            assert await anext(stays) == "hello"

    async def test_ends_for_a_listener_that_is_too_slow(self):
        cache = MemoryCache()
        async with aclosing(cache.listen("topic")) as news:
            await anext(news)
            for number in range(MAX_BACKLOG + 1):
                await cache.publish("topic", str(number))

            heard = [await anext(news) for _ in range(MAX_BACKLOG)]

            with pytest.raises(Unavailable):
                await anext(news)
        assert heard[-1] == str(MAX_BACKLOG - 1)

    async def test_ends_when_the_connection_was_lost_though_the_server_is_there(self, redis_url):
        cache = RedisCache(redis_url)
        async with aclosing(cache.listen("topic")) as news:
            await anext(news)
            await cut_subscribers(redis_url)

            with pytest.raises(Unavailable):
                await anext(news)
        await cache.close()

    async def test_ends_when_the_server_is_killed(self, server):
        cache = RedisCache(server.connection_url)
        async with aclosing(cache.listen("topic")) as news:
            await anext(news)
            server.terminate()

            with pytest.raises(Unavailable):
                await anext(news)
        await cache.close()

    async def test_stays_through_a_silence(self, redis_url):
        cache = RedisCache(redis_url, heartbeat_s=0.02)
        async with aclosing(cache.listen("topic")) as news:
            await anext(news)
            pings = await ping_count(redis_url)

            async def was_asked() -> bool:
                return await ping_count(redis_url) >= pings + 3

            hearing = asyncio.ensure_future(anext(news))
            await until(was_asked)
            await cache.publish("topic", "hello")

            assert await hearing == "hello"
        await cache.close()

    async def test_ends_when_the_server_hangs(self, server):
        cache = RedisCache(server.connection_url, heartbeat_s=0.1)
        async with aclosing(cache.listen("topic")) as news:
            await anext(news)
            await pause(server.connection_url)

            with pytest.raises(Unavailable):
                await anext(news)
        await cache.close()


class TestPing:
    async def test_answers(self, cache):
        await cache.ping()


class TestKilledServer:
    async def test_makes_every_verb_unavailable(self, server):
        cache = RedisCache(server.connection_url)
        await cache.set("key", b"value", ttl_s=60)
        server.terminate()

        verbs = (
            cache.get("key"),
            cache.set("key", b"value", ttl_s=60),
            cache.delete("key"),
            cache.publish("topic", "hello"),
            cache.ping(),
            anext(cache.listen("topic")),
        )
        for verb in verbs:
            with pytest.raises(Unavailable):
                await verb
        await cache.close()


class TestOpenCache:
    async def test_stays_in_the_process_without_an_address(self):
        assert isinstance(open_cache(None), MemoryCache)

    async def test_goes_to_redis_with_one(self, redis_url):
        cache = open_cache(redis_url)

        assert isinstance(cache, RedisCache)
        await cache.close()


async def cut_subscribers(url: str) -> None:
    async with redis.Redis.from_url(url) as admin:
        await admin.client_kill_filter(_type="pubsub")


async def ping_count(url: str) -> int:
    async with redis.Redis.from_url(url) as admin:
        return (await admin.info("commandstats"))["cmdstat_ping"]["calls"]


async def pause(url: str) -> None:
    async with redis.Redis.from_url(url) as admin:
        await admin.client_pause(60_000, all=True)
