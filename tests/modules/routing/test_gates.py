"""What a process knows of its upstreams: places, queues, keys, pace, health."""

import asyncio

import pytest

from app.modules.routing.domain.breaker import WEIGHT_TO_OPEN
from app.modules.routing.domain.faults import CircuitOpen, NoCapacity
from app.modules.routing.service.gates import GateLimits, Gates, KeyRing
from tests.fakes.upstream import FakeUpstream, source, target


class Now:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def gate(now):
    limits = GateLimits(parallel=2, queue=1, queue_timeout_s=5.0)
    return Gates(limits, now).gate(source("one", FakeUpstream()))


class TestEnter:
    async def test_lets_so_many_in_and_the_next_wait(self, gate):
        await gate.enter(5)
        await gate.enter(5)
        waiting = asyncio.create_task(gate.enter(5))
        await asyncio.sleep(0)

        assert (gate.in_flight, gate.queued, waiting.done()) == (2, 1, False)
        gate.leave()
        await waiting

        assert (gate.in_flight, gate.queued) == (2, 0)

    async def test_sends_away_whom_the_queue_has_no_room_for(self, gate):
        for _ in range(2):
            await gate.enter(5)
        waiting = asyncio.create_task(gate.enter(5))
        await asyncio.sleep(0)

        with pytest.raises(NoCapacity) as caught:
            await gate.enter(5)

        assert caught.value.extra["retry_after_s"] >= 1
        waiting.cancel()

    async def test_sends_away_who_has_waited_too_long(self, gate):
        for _ in range(2):
            await gate.enter(5)

        with pytest.raises(NoCapacity):
            await gate.enter(0.01)

        assert gate.queued == 0

    async def test_who_leaves_the_queue_takes_no_place(self, gate):
        for _ in range(2):
            await gate.enter(5)
        waiting = asyncio.create_task(gate.enter(5))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        gate.leave()
        gate.leave()

        assert (gate.in_flight, gate.queued) == (0, 0)

    async def test_a_place_given_to_one_who_leaves_at_that_moment_goes_back(self, gate):
        for _ in range(2):
            await gate.enter(5)
        waiting = asyncio.create_task(gate.enter(5))
        await asyncio.sleep(0)
        gate.leave()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        gate.leave()

        assert gate.in_flight == 0


class TestKeyRing:
    def test_takes_keys_in_turn(self, now):
        ring = KeyRing(["a", "b"], now)

        assert [ring.pick() for _ in range(4)] == ["a", "b", "a", "b"]

    def test_leaves_a_refused_key_alone_until_its_time(self, now):
        ring = KeyRing(["a", "b"], now)
        ring.rest("a", 10)

        before = [ring.pick() for _ in range(3)]
        now.s = 10
        after = {ring.pick() for _ in range(2)}

        assert (before, after) == (["b", "b", "b"], {"a", "b"})

    def test_takes_the_one_that_rests_the_shortest_when_all_rest(self, now):
        ring = KeyRing(["a", "b"], now)
        ring.rest("a", 10)
        ring.rest("b", 5)

        assert ring.pick() == "b"

    def test_a_single_key_never_rests(self, now):
        ring = KeyRing(["a"], now)
        ring.rest("a", 10)

        assert ring.pick() == "a"

    def test_without_keys_there_is_none(self, now):
        assert KeyRing([], now).pick() == ""


class TestBreakers:
    def test_a_failing_model_rests_and_its_neighbours_do_not(self, now):
        gates = Gates(GateLimits(), now)
        ill, upstream = target("one", FakeUpstream()), FakeUpstream()
        well = target("two", upstream)
        for request in range(WEIGHT_TO_OPEN):
            gates.pace(ill).breaker.fail(now(), request)

        with pytest.raises(CircuitOpen) as caught:
            gates.begin(ill)
        gates.begin(well)

        assert caught.value.extra["retry_after_s"] >= 1
        assert (gates.is_open(ill), gates.is_open(well)) == (True, False)

    def test_a_line_that_is_dead_is_dead_for_every_model(self, now):
        gates = Gates(GateLimits(), now)
        one = target("one", FakeUpstream())
        for request in range(WEIGHT_TO_OPEN):
            gates.gate(one.source).line.fail(now(), request)

        with pytest.raises(CircuitOpen):
            gates.begin(one)


class TestPace:
    def test_streams_and_whole_answers_are_timed_apart(self, now):
        pace = Gates(GateLimits(), now).pace(target("one", FakeUpstream()))

        pace.note(100, 0.0, is_streamed=True)
        pace.note(900, 0.0, is_streamed=False)

        assert pace.ewma_ms(0.0, is_streamed=True) == 100
        assert pace.ewma_ms(0.0, is_streamed=False) == 900

    def test_who_was_slow_once_is_tried_again(self, now):
        pace = Gates(GateLimits(), now).pace(target("one", FakeUpstream()))

        pace.note(1000, 0.0, is_streamed=True)

        later = pace.ewma_ms(60.0, is_streamed=True)
        assert later is not None
        assert later < 10


class TestHealth:
    def test_tells_of_every_upstream_that_was_asked(self, now):
        gates = Gates(GateLimits(), now)
        one = target("one", FakeUpstream())
        gates.gate(one.source).calls += 3
        gates.pace(one).note(40, 0.0, is_streamed=True)

        (health,) = gates.health()

        assert (health.name, health.state, health.calls) == ("one", "closed", 3)
        assert health.first_token_ms == 40
