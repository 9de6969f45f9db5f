"""How many are at work at once, and who is next."""

import asyncio

import pytest

from app.modules.flows.service.places import Places
from tests.waiting import until


class Crowd:
    """Takes places and says who has one."""

    def __init__(self, limit):
        self.places = Places(limit)
        self.inside = []
        self.leaving = {}

    def come(self, name, priority=0):
        self.leaving[name] = asyncio.Event()
        return asyncio.create_task(self._stay(name, priority))

    async def _stay(self, name, priority):
        async with self.places.at(priority):
            self.inside.append(name)
            await self.leaving[name].wait()
        self.inside.remove(name)

    async def settle(self):
        for _ in range(5):
            await asyncio.sleep(0)


class TestAt:
    async def test_lets_in_as_many_as_there_are_places(self):
        crowd = Crowd(2)

        tasks = [crowd.come(name) for name in "abc"]
        await crowd.settle()

        assert crowd.inside == ["a", "b"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def test_the_highest_priority_is_next_then_who_came_first(self):
        crowd = Crowd(1)
        order = []
        tasks = [crowd.come("first")]
        await crowd.settle()

        tasks += [crowd.come("low", 1), crowd.come("high", 9), crowd.come("high, later", 9)]
        await crowd.settle()
        while crowd.inside:
            [name] = crowd.inside
            order.append(name)
            crowd.leaving[name].set()
            await until(lambda name=name: name not in crowd.inside)
            await crowd.settle()

        assert order == ["first", "high", "high, later", "low"]
        await asyncio.gather(*tasks)

    async def test_who_leaves_the_queue_takes_no_place_with_it(self):
        crowd = Crowd(1)
        first, second = crowd.come("first"), crowd.come("second", 9)
        await crowd.settle()

        second.cancel()
        crowd.leaving["first"].set()
        await first
        third = crowd.come("third")
        await crowd.settle()

        assert crowd.inside == ["third"]
        crowd.leaving["third"].set()
        await third

    async def test_who_is_cancelled_when_just_called_gives_the_place_on(self):
        crowd = Crowd(1)
        held = crowd.places.at(0)
        await held.__aenter__()
        called = crowd.come("called")
        await crowd.settle()

        await held.__aexit__(None, None, None)
        called.cancel()
        await asyncio.gather(called, return_exceptions=True)

        assert crowd.inside == []
        async with asyncio.timeout(1), crowd.places.at(0):
            pass

    async def test_a_failure_inside_gives_the_place_back(self):
        places = Places(1)

        with pytest.raises(ValueError, match="inside"):
            async with places.at(0):
                raise ValueError("inside")

        async with asyncio.timeout(1), places.at(0):
            pass
