"""The way to an answer over upstreams that fail."""

import asyncio
import time

import pytest

from app.kernel.errors import BadUpstream, Invalid
from app.modules.routing.domain.breaker import WEIGHT_TO_OPEN
from app.modules.routing.domain.faults import (
    AnswerTooLarge,
    CircuitOpen,
    NoCapacity,
    StreamBroken,
    UpstreamUnreachable,
)
from app.modules.routing.ports import Answer, Ask
from app.modules.routing.service.dispatch import Dispatcher, Opened, Progress, Trip, Whole
from app.modules.routing.service.gates import GateLimits, Gates
from tests.fakes.upstream import DONE, GOOD, WORD, FakeUpstream, target
from tests.waiting import until

ROLE = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
ERROR = b'data: {"error":{"message":"no"}}\n\n'
JSON = "application/json"


def failure(status: int, retry_after: str = "") -> Answer:
    return Answer(status, JSON, b'{"error":{"message":"x"}}', retry_after)


class Bench:
    """A dispatcher over targets, with everything that can be looked at afterwards."""

    def __init__(self, *targets, retries: int = 1, parallel: int = 8, queue: int = 8) -> None:
        self.gates = Gates(GateLimits(parallel, queue, 1.0))
        self.pauses: list[float] = []
        self.targets = targets
        self._requests = 0
        self.progress = Progress()
        self._dispatcher = Dispatcher(
            self.gates, retries=retries, draw=lambda: 0.5, pause=self._pause
        )

    async def run(
        self,
        *,
        is_streamed: bool = False,
        deadline_s: float = 5.0,
        own_key: str = "",
        request: bytes = b"",
    ):
        self.progress = Progress()
        self._requests += 1
        trip = Trip(
            self.targets,
            lambda found, key: Ask("chat/completions", found.model, b"{}", key),
            is_streamed,
            deadline_s,
            own_key=own_key,
            request=request or str(self._requests).encode(),
        )
        return await self._dispatcher.run(trip, self.progress)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


class TestCallersFault:
    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_is_never_tried_again(self, status):
        first, second = FakeUpstream(script=[failure(status)]), FakeUpstream()
        bench = Bench(target("one", first), target("two", second))

        found = await bench.run()

        assert found.answer.status == status
        assert (len(first.asks), len(second.asks)) == (1, 0)

    async def test_opens_no_breaker(self):
        one = target("one", FakeUpstream(script=[failure(400)]))
        bench = Bench(one)

        for _ in range(WEIGHT_TO_OPEN * 2):
            await bench.run()

        assert not bench.gates.is_open(one)


class TestKeyFault:
    @pytest.mark.parametrize("status", [401, 402, 403, 429])
    async def test_takes_the_next_key_without_a_pause(self, status):
        upstream = FakeUpstream(script=[failure(status), GOOD])
        bench = Bench(target("one", upstream, keys=("k1", "k2")))

        found = await bench.run()

        assert found.answer.status == 200
        assert [ask.key for ask in upstream.asks] == ["k1", "k2"]
        assert bench.pauses == []

    async def test_a_refused_key_rests(self):
        upstream = FakeUpstream(script=[failure(429, "60"), GOOD])
        bench = Bench(target("one", upstream, keys=("k1", "k2")))

        for _ in range(3):
            await bench.run()

        assert [ask.key for ask in upstream.asks] == ["k1", "k2", "k2", "k2"]

    async def test_falls_back_when_no_key_is_left(self):
        first = FakeUpstream(script=[failure(401)])
        bench = Bench(target("one", first, keys=("k1", "k2")), target("two", FakeUpstream()))

        found = await bench.run()

        assert (found.target.source.name, len(first.asks)) == ("two", 2)

    async def test_a_callers_own_key_is_used_and_none_of_ours(self):
        upstream = FakeUpstream(script=[failure(401)])
        bench = Bench(target("one", upstream, keys=("k1", "k2")))

        found = await bench.run(own_key="mine")

        assert found.answer.status == 401
        assert [ask.key for ask in upstream.asks] == ["mine"]


class TestServerFault:
    @pytest.mark.parametrize("fault", [failure(500), failure(503), BadUpstream("x")])
    async def test_is_tried_again_after_a_pause(self, fault):
        upstream = FakeUpstream(script=[fault, GOOD])
        bench = Bench(target("one", upstream))

        found = await bench.run()

        assert found.answer.status == 200
        assert bench.pauses == [0.1]
        assert bench.progress.attempts == 2

    async def test_then_falls_back(self):
        first = FakeUpstream(script=[failure(500)])
        bench = Bench(target("one", first), target("two", FakeUpstream()))

        found = await bench.run()

        assert found.target.source.name == "two"
        assert (len(first.asks), bench.progress.attempts) == (2, 3)

    async def test_the_last_ones_words_reach_the_caller(self):
        first = FakeUpstream(script=[UpstreamUnreachable("gone")])
        second = FakeUpstream(script=[failure(503, "9")])
        bench = Bench(target("one", first), target("two", second))

        found = await bench.run()

        assert (found.answer.status, found.answer.retry_after) == (503, "9")

    async def test_an_answer_that_is_none_is_the_servers_fault(self):
        upstream = FakeUpstream(script=[Answer(200, "text/html", b"<html>")])
        bench = Bench(target("one", upstream), target("two", FakeUpstream()))

        assert (await bench.run()).target.source.name == "two"

    async def test_one_that_is_too_large_is_not_asked_for_again(self):
        upstream = FakeUpstream(script=[AnswerTooLarge("big")])
        bench = Bench(target("one", upstream))

        with pytest.raises(AnswerTooLarge):
            await bench.run()

        assert len(upstream.asks) == 1

    async def test_failures_in_a_row_open_the_breaker_and_the_next_call_is_told(self):
        one = target("one", FakeUpstream(script=[failure(500)]))
        bench = Bench(one, retries=0)
        for _ in range(WEIGHT_TO_OPEN):
            await bench.run()

        with pytest.raises(CircuitOpen):
            await bench.run()

    async def test_one_bad_request_that_its_caller_repeats_blacks_nothing_out(self):
        one = target("one", FakeUpstream(script=[failure(500)]))
        bench = Bench(one)

        for _ in range(WEIGHT_TO_OPEN * 2):
            await bench.run(request=b"the same")

        assert not bench.gates.is_open(one)

    async def test_one_bad_request_among_good_ones_blacks_nothing_out(self):
        script = [failure(500), GOOD] * WEIGHT_TO_OPEN * 2
        one = target("one", FakeUpstream(script=script))
        bench = Bench(one, retries=0)

        for _ in range(WEIGHT_TO_OPEN * 2):
            await bench.run()

        assert not bench.gates.is_open(one)

    async def test_a_pools_saturation_is_no_defect(self):
        one = target("llmd", FakeUpstream(script=[failure(503)]), is_pool=True)
        bench = Bench(one)

        for _ in range(WEIGHT_TO_OPEN * 2):
            await bench.run()

        assert not bench.gates.is_open(one)
        assert len(bench.pauses) == WEIGHT_TO_OPEN * 2


class TestTargetFault:
    async def test_a_model_that_is_not_there_is_looked_for_elsewhere_at_once(self):
        first = FakeUpstream(script=[failure(404)])
        bench = Bench(target("one", first), target("two", FakeUpstream()))

        found = await bench.run()

        assert (found.target.source.name, len(first.asks), bench.pauses) == ("two", 1, [])

    async def test_what_one_cannot_be_told_another_may_understand(self):
        first = FakeUpstream(script=[Invalid("no seed here", param="seed")])
        bench = Bench(target("one", first), target("two", FakeUpstream()))

        assert (await bench.run()).target.source.name == "two"

    async def test_what_nobody_understands_is_the_callers_error(self):
        bench = Bench(target("one", FakeUpstream(script=[Invalid("no seed here", param="seed")])))

        with pytest.raises(Invalid, match="seed"):
            await bench.run()


class TestDeadline:
    async def test_nothing_is_tried_after_it(self):
        first = FakeUpstream(script=[failure(500)])
        bench = Bench(target("one", first), target("two", second := FakeUpstream()))

        await bench.run(deadline_s=0.0)

        assert (len(first.asks), len(second.asks)) == (1, 0)

    async def test_shortens_what_an_upstream_is_given(self):
        upstream = FakeUpstream()
        bench = Bench(target("one", upstream))

        await bench.run(deadline_s=2.0)

        assert upstream.asks[0].deadlines.first_byte_s <= 2.0


class TestCapacity:
    async def test_a_full_upstream_is_left_for_another(self):
        busy = FakeUpstream()
        busy.hold = asyncio.Event()
        bench = Bench(target("one", busy), target("two", FakeUpstream()), parallel=1, queue=0)
        first = asyncio.create_task(bench.run())
        await until(lambda: busy.asks)

        found = await bench.run()

        busy.hold.set()
        await first
        assert found.target.source.name == "two"

    async def test_when_all_are_full_the_caller_is_told_to_come_back(self):
        busy = FakeUpstream()
        busy.hold = asyncio.Event()
        bench = Bench(target("one", busy), parallel=1, queue=0)
        first = asyncio.create_task(bench.run())
        await until(lambda: busy.asks)

        with pytest.raises(NoCapacity):
            await bench.run()

        busy.hold.set()
        await first

    async def test_a_failed_or_cancelled_call_gives_its_place_back(self):
        upstream = FakeUpstream(script=[failure(500)])
        one = target("one", upstream)
        bench = Bench(one)
        await bench.run()
        upstream.hold = asyncio.Event()
        running = asyncio.create_task(bench.run())
        await until(lambda: bench.gates.gate(one.source).in_flight == 1)

        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

        assert bench.gates.gate(one.source).in_flight == 0


class TestStreams:
    async def test_early_frames_are_held_until_there_is_content(self):
        bench = Bench(target("one", FakeUpstream(script=[[ROLE, WORD, DONE]])))

        opened = await bench.run(is_streamed=True)

        assert isinstance(opened, Opened)
        assert opened.held == ROLE + WORD
        assert [chunk async for chunk in opened.stream.chunks] == [DONE]

    async def test_an_error_before_content_falls_back(self):
        first = FakeUpstream(script=[[ROLE, ERROR, DONE]])
        bench = Bench(target("one", first), target("two", FakeUpstream(script=[[WORD, DONE]])))

        opened = await bench.run(is_streamed=True)

        assert opened.target.source.name == "two"
        assert first.cut == 2

    @pytest.mark.parametrize(
        ("code", "tries"), [(b"400", 1), (b"429", 1), (b"503", 2), (b'"odd"', 2)]
    )
    async def test_its_code_says_whose_fault_it_is(self, code, tries):
        error = b'data: {"error":{"message":"no","code":' + code + b"}}\n\n"
        first = FakeUpstream(script=[[error, DONE]])
        bench = Bench(target("one", first))

        found = await bench.run(is_streamed=True)

        assert isinstance(found, Whole)
        assert b'"no"' in found.answer.body
        assert len(first.asks) == tries

    async def test_an_end_before_content_falls_back(self):
        first = FakeUpstream(script=[[ROLE]])
        bench = Bench(target("one", first), target("two", FakeUpstream(script=[[WORD, DONE]])))

        assert (await bench.run(is_streamed=True)).target.source.name == "two"

    async def test_an_end_before_content_everywhere_is_told(self):
        bench = Bench(target("one", FakeUpstream(script=[[ROLE]])))

        with pytest.raises(StreamBroken):
            await bench.run(is_streamed=True)

    async def test_an_empty_answer_that_is_complete_is_an_answer(self):
        bench = Bench(target("one", FakeUpstream(script=[[ROLE, DONE]])))

        assert (await bench.run(is_streamed=True)).reader.is_done

    async def test_one_that_has_told_its_end_may_end_by_itself_before_it_is_cut(self):
        bench = Bench(target("one", upstream := FakeUpstream(script=[[WORD + DONE]])))
        opened = await bench.run(is_streamed=True)

        await opened.close()
        at_once = upstream.cut
        await until(lambda: upstream.cut == 1)

        assert at_once == 0

    async def test_a_stream_keeps_its_place_until_it_is_closed(self):
        one = target("one", upstream := FakeUpstream(script=[[WORD, DONE]]))
        bench = Bench(one)
        opened = await bench.run(is_streamed=True)
        during = bench.gates.gate(one.source).in_flight

        await opened.close()
        await opened.close()

        assert (during, bench.gates.gate(one.source).in_flight, upstream.cut) == (1, 0, 1)


class TestProgress:
    async def test_time_at_the_upstream_is_told_apart_from_ours(self):
        upstream = FakeUpstream()
        upstream.hold = asyncio.Event()
        bench = Bench(target("one", upstream))
        began = time.perf_counter()
        running = asyncio.create_task(bench.run())
        await until(lambda: time.perf_counter() - began > 0.05)

        upstream.hold.set()
        await running

        assert 0.05 <= bench.progress.upstream_s <= time.perf_counter() - began
