"""Which outcomes are tried again, and after how long."""

import pytest

from ai_spine._call import Answer, Call, Fault
from ai_spine._retry import BACK_OFF_MAX_S, RETRY_AFTER_MAX_S, pause_s

READ = Call("GET", "/flows", dict, retry=True)
WRITE = Call("POST", "/flows", dict)
NOT_SENT = Fault("refused", is_sent=False, is_late=False)
LOST = Fault("reset", is_sent=True, is_late=False)
LATE = Fault("late", is_sent=True, is_late=True)


def answer(status: int, retry_after: str | None = None) -> Answer:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return Answer(status, headers, b"")


class TestPauseS:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_tries_a_read_again_that_found_a_busy_server(self, status):
        assert pause_s(READ, answer(status), 0, 0.5) == 0.5

    @pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 409, 501])
    def test_takes_other_answers_as_they_are(self, status):
        assert pause_s(READ, answer(status), 0, 0.5) is None

    @pytest.mark.parametrize("fault", [NOT_SENT, LOST, LATE])
    def test_tries_a_read_again_whatever_became_of_it(self, fault):
        assert pause_s(READ, fault, 0, 0.5) == 0.5

    @pytest.mark.parametrize("outcome", [LOST, LATE, answer(500), answer(502), answer(503)])
    def test_does_not_repeat_a_write_that_may_have_been_done(self, outcome):
        assert pause_s(WRITE, outcome, 0, 0.5) is None

    @pytest.mark.parametrize("outcome", [NOT_SENT, answer(429)])
    def test_repeats_a_write_that_was_refused_at_the_door(self, outcome):
        assert pause_s(WRITE, outcome, 0, 0.5) == 0.5

    def test_doubles_up_to_a_limit(self):
        pauses = [pause_s(READ, LOST, retry, 1.0) for retry in range(6)]

        assert pauses == [1.0, 2.0, 4.0, 8.0, BACK_OFF_MAX_S, BACK_OFF_MAX_S]

    def test_spreads_over_the_whole_time(self):
        assert pause_s(READ, LOST, 2, 0.0) == 0.0

    @pytest.mark.parametrize("status", [429, 503])
    def test_waits_exactly_as_long_as_it_is_told(self, status):
        assert pause_s(READ, answer(status, "7"), 5, 0.1) == 7.0

    def test_gives_up_at_once_when_it_is_told_to_wait_too_long(self):
        assert pause_s(READ, answer(429, str(RETRY_AFTER_MAX_S)), 0, 0.5) == RETRY_AFTER_MAX_S
        assert pause_s(READ, answer(429, str(RETRY_AFTER_MAX_S + 1)), 0, 0.5) is None

    @pytest.mark.parametrize(
        "said", ["", "-1", "1.5", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "٣", "9" * 5000]
    )
    def test_does_not_listen_to_what_is_no_whole_number(self, said):
        assert pause_s(READ, answer(503, said), 0, 0.5) == 0.5
