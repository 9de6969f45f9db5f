"""Mixed calls with a `kill -9` among them: every one is billed once, and as it was."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import build
from benchmarks.furnish import cost_nanos
from benchmarks.targets import Places, Street
from benchmarks.truth.books import Row, Served
from benchmarks.truth.compare import LEFT, STRUCK, judge
from benchmarks.truth.driver import Heard
from benchmarks.truth.plan import Leave, Planned
from benchmarks.truth.soak import Soak, run

PLANNED = Planned(1, "call-1-p20-c9-k0", is_streamed=False, tells_usage=True, prompt_bytes=0)
HEARD = Heard(life=0, status=200, call_id="a", is_whole=True, usage=(20, 9, 0))
SERVED = Served(1, asked=1, whole=1, status=200, input=20, output=9)
ROW = Row("a", "truth-1", False, "completed", 200, 1, 20, 9, 0, False, cost_nanos(20, 0, 9))

LEAVING = replace(PLANNED, leave=Leave("waiting", after_s=0.1))
GONE = Heard(life=0, has_left=True)
CUT = Served(1, asked=1, cut=1, status=200)
INPUT = len(PLANNED.body) // 4
ABANDONED = replace(
    ROW,
    outcome="abandoned",
    status=499,
    input_tokens=INPUT,
    output_tokens=0,
    is_estimated=True,
    cost_nanos=cost_nanos(INPUT, 0, 0),
)


@pytest.mark.slow
class TestSoak:
    async def test_every_row_says_what_the_upstream_did_and_the_client_had(self, tmp_path: Path):
        places = Places(
            build.program("upstream"), build.program("load"), sys.executable, scratch=tmp_path
        )

        findings, _ = await run(Street(places), Soak(calls=1500, kills=1, seed=4))

        assert findings.is_true, "\n".join(findings.examples)
        assert sum(line.made for line in findings.lines.values()) == 1500
        assert findings.lines[LEFT].asked > 0
        assert findings.lines[STRUCK].made > 0


class TestJudge:
    def test_finds_nothing_wrong_with_a_call_that_is_billed_as_it_was(self):
        found = list(judge(PLANNED, HEARD, SERVED, [ROW]))

        assert found == []

    def test_misses_the_row_of_an_answer_that_the_client_has(self):
        found = list(judge(PLANNED, HEARD, SERVED, []))

        assert found == ["lost"]

    def test_misses_the_row_of_a_call_that_only_the_upstream_knows(self):
        found = list(judge(LEAVING, GONE, CUT, []))

        assert found == ["lost"]

    def test_asks_no_row_of_a_call_that_never_reached_the_upstream(self):
        found = list(judge(LEAVING, GONE, Served(1), []))

        assert found == []

    def test_asks_no_row_of_a_call_that_the_server_was_killed_under(self):
        found = list(judge(PLANNED, Heard(life=0, was_struck=True), SERVED, []))

        assert found == []

    def test_sees_a_second_row_even_of_a_call_that_the_server_was_killed_under(self):
        found = list(judge(PLANNED, Heard(life=0, was_struck=True), SERVED, [ROW, ROW]))

        assert found == ["doubled"]

    def test_sees_tokens_that_cost_nothing_known(self):
        found = list(judge(PLANNED, HEARD, SERVED, [replace(ROW, cost_nanos=None)]))

        assert found == ["unpriced"]

    def test_sees_a_cost_that_the_price_does_not_make(self):
        found = list(judge(PLANNED, HEARD, SERVED, [replace(ROW, cost_nanos=1)]))

        assert found == ["wrong cost"]

    def test_sees_tokens_that_are_not_the_upstreams(self):
        other = replace(ROW, output_tokens=8, cost_nanos=cost_nanos(20, 0, 8))

        found = list(judge(PLANNED, HEARD, SERVED, [other]))

        assert found == ["wrong tokens"]

    def test_sees_an_answer_that_tells_other_tokens_than_the_upstream(self):
        found = list(judge(PLANNED, replace(HEARD, usage=(20, 8, 0)), SERVED, [ROW]))

        assert found == ["wrong answers"]

    def test_sees_a_failure_that_is_billed_as_an_answer(self):
        refused = replace(SERVED, whole=0, refused=1, status=400)
        heard = replace(HEARD, status=400, usage=None)

        found = list(judge(replace(PLANNED, status=400), heard, refused, [ROW]))

        assert found == ["wrong outcome"]

    def test_sees_more_attempts_than_the_upstream_was_asked(self):
        found = list(judge(PLANNED, HEARD, SERVED, [replace(ROW, attempts=2)]))

        assert found == ["wrong attempts"]

    def test_accepts_the_estimate_of_a_call_that_was_left(self):
        found = list(judge(LEAVING, GONE, CUT, [ABANDONED]))

        assert found == []

    def test_sees_more_tokens_than_the_upstream_had_sent_of_a_stream_that_was_left(self):
        sent = replace(CUT, events=5)
        more = replace(ABANDONED, output_tokens=7, cost_nanos=cost_nanos(INPUT, 0, 7))

        found = list(judge(LEAVING, GONE, sent, [more]))

        assert found == ["wrong tokens"]

    def test_sees_fewer_tokens_than_the_client_had_of_a_stream_that_it_left(self):
        sent, read = replace(CUT, events=5), replace(GONE, events=4)
        fewer = replace(ABANDONED, output_tokens=3, cost_nanos=cost_nanos(INPUT, 0, 3))

        found = list(judge(LEAVING, read, sent, [fewer]))

        assert found == ["wrong tokens"]
