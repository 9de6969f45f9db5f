"""What the methods do, step by step."""

import pytest

import ai_spine
from ai_spine import _endpoints as endpoints
from ai_spine._flows import flow_pages
from ai_spine._plans import INTERVAL_MIN_S
from tests.client.driving import LATE, LOST, REFUSED, Hand, said

READ = endpoints.get_flow("f")
WRITE = endpoints.create_flow({"flow_id": "f"})
START = endpoints.execute_flow("f", {})
RUNNING = said({"execution_id": "e", "flow_id": "f", "status": "running"})
COMPLETED = said({"execution_id": "e", "flow_id": "f", "status": "completed"})


@pytest.fixture
def hand() -> Hand:
    return Hand()


class TestSend:
    def test_returns_the_answer(self, hand):
        assert hand.take(hand.planner.send(READ), said({"a": 1})) == {"a": 1}
        assert [send.timeout_s for send in hand.sends] == [30.0]

    def test_tries_again_after_longer_and_longer_pauses(self, hand):
        value = hand.take(hand.planner.send(READ), said({}, 503), LOST, LATE, said({"a": 1}))

        assert value == {"a": 1}
        assert hand.pauses == [0.5, 1.0, 2.0]

    def test_gives_up_after_the_retries(self, hand):
        with pytest.raises(ai_spine.NetworkError):
            hand.take(hand.planner.send(READ), LOST)

        assert len(hand.sends) == 4

    def test_does_not_try_again_when_it_shall_not(self):
        hand = Hand(max_retries=0)

        with pytest.raises(ai_spine.RateLimitError):
            hand.take(hand.planner.send(READ), said({}, 429, retry_after="1"))

        assert (len(hand.sends), hand.pauses) == (1, [])

    def test_starts_a_flow_again_under_the_same_name(self, hand):
        hand.take(hand.planner.send(START), LOST, said({}, 502), said({"execution_id": "e"}))

        keys = {send.call.headers["Idempotency-Key"] for send in hand.sends}
        assert (len(hand.sends), len(keys)) == (3, 1)

    @pytest.mark.parametrize("outcome", [LOST, said({}, 503)])
    def test_sends_a_write_once(self, hand, outcome):
        with pytest.raises(ai_spine.AISpineError):
            hand.take(hand.planner.send(WRITE), outcome)

        assert len(hand.sends) == 1

    def test_sends_a_write_again_that_never_left(self, hand):
        assert hand.take(hand.planner.send(WRITE), REFUSED, said({"a": 1}, 201)) == {"a": 1}

    def test_says_how_long_to_wait_when_that_is_too_long_to_wait_for(self, hand):
        with pytest.raises(ai_spine.RateLimitError) as raised:
            hand.take(hand.planner.send(READ), said({}, 429, retry_after="3600"))

        assert raised.value.retry_after == 3600
        assert hand.pauses == []

    def test_says_when_no_answer_came(self, hand):
        with pytest.raises(ai_spine.TimeoutError, match="within 30 s"):
            hand.take(hand.planner.send(READ), LATE)


class TestWait:
    def wait(self, hand: Hand, timeout: float = 300, interval: float = 2):
        return hand.planner.wait("e", timeout, interval)

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    def test_ends_with_every_end(self, hand, status):
        ended = {"execution_id": "e", "status": status}

        assert hand.take(self.wait(hand), RUNNING, said(ended)) == ended

    def test_looks_again_and_again(self, hand):
        hand.take(self.wait(hand), RUNNING, RUNNING, RUNNING, COMPLETED)

        assert hand.pauses == [2.0, 2.0, 2.0]

    def test_does_not_look_so_often_that_it_hurts(self, hand):
        hand.take(self.wait(hand, interval=1e-9), RUNNING, COMPLETED)

        assert hand.pauses == [INTERVAL_MIN_S]

    def test_ends_with_its_time(self, hand):
        with pytest.raises(ai_spine.TimeoutError, match="e is running after 5 s") as raised:
            hand.take(self.wait(hand, timeout=5), RUNNING)

        assert hand.now == 1005.0
        assert hand.pauses[:6] == [2.0, 2.0, 0.5, 0.25, 0.125, 0.0625]
        assert (raised.value.execution_id, raised.value.timeout) == ("e", 5)

    def test_gives_no_request_more_time_than_there_is(self, hand):
        with pytest.raises(ai_spine.TimeoutError):
            hand.take(self.wait(hand, timeout=40), RUNNING, LATE)

        assert [send.timeout_s for send in hand.sends] == [30.0, 30.0, pytest.approx(7.5)]
        assert hand.now == 1040.0

    def test_ends_with_its_time_when_the_server_asks_for_more(self, hand):
        with pytest.raises(ai_spine.TimeoutError, match="not known after 5 s"):
            hand.take(self.wait(hand, timeout=5), said({}, 503, retry_after="10"))

        assert hand.pauses == []

    def test_ends_with_its_time_when_the_last_request_takes_it(self):
        hand = Hand(max_retries=0)

        with pytest.raises(ai_spine.TimeoutError, match="e is running after 10 s"):
            hand.take(self.wait(hand, timeout=10), RUNNING, LATE)

    def test_says_what_went_wrong_when_there_was_time_left(self, hand):
        with pytest.raises(ai_spine.NetworkError):
            hand.take(self.wait(hand), RUNNING, LOST)

    def test_says_when_a_request_was_late_and_there_was_time_left(self):
        hand = Hand(max_retries=0)

        with pytest.raises(ai_spine.TimeoutError, match="GET /executions/e: no answer"):
            hand.take(self.wait(hand), LATE)

    @pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "5", None])
    def test_refuses_a_time_that_is_none(self, hand, bad):
        with pytest.raises(ai_spine.ValidationError, match="interval"):
            hand.take(self.wait(hand, interval=bad), RUNNING)

    @pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), True, "5"])
    def test_refuses_a_deadline_that_is_none(self, hand, bad):
        with pytest.raises(ai_spine.ValidationError, match="timeout"):
            hand.take(self.wait(hand, timeout=bad), RUNNING)


class TestRun:
    def run(self, hand: Hand, timeout: float = 300):
        return hand.planner.run(START, timeout, 2)

    def test_starts_and_waits(self, hand):
        ended = hand.take(self.run(hand), said({"execution_id": "e"}), RUNNING, COMPLETED)

        assert ended["status"] == "completed"
        assert [s.call.method for s in hand.sends] == ["POST", "GET", "GET"]

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_insists_on_success(self, hand, status):
        ended = {"execution_id": "e", "flow_id": "f", "status": status, "error_message": "why"}

        with pytest.raises(ai_spine.ExecutionError, match="why") as raised:
            hand.take(self.run(hand), said({"execution_id": "e"}), said(ended))
        assert raised.value.details["status"] == status

    def test_has_one_time_for_all(self, hand):
        started = said({"execution_id": "e"})

        with pytest.raises(ai_spine.TimeoutError, match="e is running after 10 s") as raised:
            hand.take(self.run(hand, timeout=10), started, RUNNING, each_takes_s=4)

        assert [send.timeout_s for send in hand.sends] == [10.0, 6.0, 1.0]
        assert (raised.value.timeout, raised.value.execution_id) == (10, "e")

    def test_ends_with_its_time_before_it_has_started(self, hand):
        with pytest.raises(ai_spine.TimeoutError, match="No answer within 5 s"):
            hand.take(self.run(hand, timeout=5), LATE)


class TestList:
    def test_asks_for_all_pages(self, hand):
        pages = flow_pages(2)
        first, last = [{"flow_id": "a"}, {"flow_id": "b"}], [{"flow_id": "c"}]

        assert hand.take(hand.planner.collect(pages), said(first), said(last)) == first + last
