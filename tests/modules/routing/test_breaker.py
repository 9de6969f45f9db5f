"""The circuit breaker, and whose fault a failure is."""

import pytest

from app.modules.routing.domain.breaker import ERROR, OUTAGE, REST_LIMIT_S, WEIGHT_TO_OPEN, Breaker
from app.modules.routing.domain.faults import Fault, backoff_s, fault_of, retry_after_s

OUTAGES_TO_OPEN = WEIGHT_TO_OPEN // OUTAGE


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for request in range(OUTAGES_TO_OPEN):
        breaker.fail(at_s, request)
    return breaker


class TestOpening:
    def test_one_failure_changes_nothing(self):
        breaker = Breaker()

        breaker.fail(0.0, 1)

        assert breaker.begin(0.0)

    def test_outages_of_different_requests_open_it(self):
        assert not opened().begin(0.5)

    def test_answered_errors_weigh_half(self):
        breaker = Breaker()
        for request in range(WEIGHT_TO_OPEN - 1):
            breaker.fail(0.0, request, ERROR)
        before = breaker.state(0.0)

        breaker.fail(0.0, WEIGHT_TO_OPEN, ERROR)

        assert (before, breaker.state(0.0)) == ("closed", "open")

    def test_one_request_that_fails_again_and_again_counts_once(self):
        breaker = Breaker()

        for _ in range(100):
            breaker.fail(0.0, 7)

        assert breaker.state(0.0) == "closed"

    def test_a_success_between_them_begins_the_count_again(self):
        breaker = Breaker()
        for request in range(OUTAGES_TO_OPEN * 3):
            breaker.fail(0.0, request)
            breaker.succeed()

        assert breaker.state(0.0) == "closed"


class TestHalfOpen:
    def test_lets_one_call_through_and_no_second(self):
        breaker = opened()

        assert [breaker.begin(1.5), breaker.begin(1.5)] == [True, False]

    def test_a_probe_that_succeeds_closes_it(self):
        breaker = opened()
        breaker.begin(1.5)

        breaker.succeed()

        assert breaker.state(1.5) == "closed"

    def test_a_probe_that_fails_doubles_the_rest(self):
        breaker = opened()
        breaker.begin(1.5)

        breaker.fail(1.5, 99)

        assert (breaker.state(3.4), breaker.state(3.6)) == ("open", "half-open")

    def test_a_probe_that_says_nothing_makes_room_for_another(self):
        breaker = opened()
        breaker.begin(1.5)

        breaker.stand_back()

        assert breaker.begin(1.5)

    def test_the_rest_has_a_limit(self):
        breaker, now_s = opened(), 0.0
        for _ in range(20):
            now_s += breaker.wait_s(now_s)
            breaker.begin(now_s)
            breaker.fail(now_s, 99)

        assert breaker.wait_s(now_s) == REST_LIMIT_S

    def test_calls_that_were_under_way_do_not_lengthen_it(self):
        breaker = opened()

        for request in range(50):
            breaker.fail(0.1, request)

        assert breaker.state(1.1) == "half-open"


class TestFaultOf:
    @pytest.mark.parametrize(
        ("status", "fault"),
        [
            (200, Fault.NONE),
            (302, Fault.SERVER),
            (400, Fault.CALLER),
            (401, Fault.KEY),
            (402, Fault.KEY),
            (403, Fault.KEY),
            (404, Fault.TARGET),
            (408, Fault.SERVER),
            (413, Fault.CALLER),
            (422, Fault.CALLER),
            (429, Fault.KEY),
            (500, Fault.SERVER),
            (529, Fault.SERVER),
        ],
    )
    def test_classes_every_status(self, status, fault):
        assert fault_of(status) is fault

    def test_a_5xx_of_a_pool_is_saturation(self):
        assert fault_of(503, is_pool=True) is Fault.SATURATION
        assert fault_of(400, is_pool=True) is Fault.CALLER


class TestBackoff:
    def test_doubles_to_a_limit_and_is_drawn_below_it(self):
        assert [backoff_s(n, 1.0) for n in (1, 2, 3, 20)] == [0.2, 0.4, 0.8, 2.0]
        assert backoff_s(3, 0.0) == 0.0


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("7", 7.0),
            ("0.5", 0.5),
            ("", 30.0),
            ("Wed, 21 Oct", 30.0),
            ("-3", 0.0),
            ("9e9", 3600.0),
            ("nan", 30.0),
        ],
    )
    def test_reads_seconds_and_nothing_else(self, text, seconds):
        assert retry_after_s(text, 30.0) == seconds
