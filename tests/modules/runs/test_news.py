"""Whoever follows a run learns that it has moved."""

import asyncio
from uuid import UUID

import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.errors import Unavailable
from app.modules.runs.service.news import TOPIC, RunNews
from tests.waiting import until

ONE, TWO = UUID(int=1), UUID(int=2)


class Deaf(MemoryCache):
    """Cannot be told anything, until it is mended."""

    is_mended = False

    async def publish(self, topic, message):
        if not self.is_mended:
            raise Unavailable("gone")
        await super().publish(topic, message)


class Loud(MemoryCache):
    def __init__(self):
        super().__init__()
        self.messages = []

    async def publish(self, topic, message):
        self.messages.append(message)
        await super().publish(topic, message)


@pytest.fixture
async def listening():
    """What another process of the same installation hears."""
    tasks = []

    async def listen(cache):
        heard = []
        news = RunNews(cache)
        news.observe(lambda run_id, status: heard.append((run_id, status)))
        tasks.append(asyncio.create_task(news.listen()))
        await until(lambda: cache._listeners.get(TOPIC))
        return heard

    yield listen
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestTell:
    async def test_is_heard_elsewhere(self, listening):
        cache = MemoryCache()
        heard = await listening(cache)

        RunNews(cache).tell(ONE, "running")

        await until(lambda: heard == [(ONE, "running")])

    async def test_of_several_at_once_is_one_message(self, listening):
        cache = Loud()
        heard = await listening(cache)
        news = RunNews(cache)

        news.tell(ONE, "running")
        news.tell(TWO, "completed")

        await until(lambda: heard == [(ONE, "running"), (TWO, "completed")])
        assert len(cache.messages) == 1

    async def test_goes_on_after_one_that_could_not_be_told(self, listening):
        cache = Deaf()
        heard = await listening(cache)
        news = RunNews(cache)
        news.tell(ONE, "running")
        await until(lambda: news._telling is None)

        cache.is_mended = True
        news.tell(TWO, "completed")

        await until(lambda: heard == [(TWO, "completed")])


class TestHear:
    async def test_leaves_out_what_it_does_not_understand(self, listening):
        cache = MemoryCache()
        heard = await listening(cache)

        await cache.publish(TOPIC, f"of a later version\n{ONE} running")

        await until(lambda: heard == [(ONE, "running")])
