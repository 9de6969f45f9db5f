"""Executions with a `kill -9` among them: none is lost, and none is run twice."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sandbox.books import COMPLETED, LOST, SAID, TWICE, WRONG, Book, judge
from benchmarks.sandbox.crash import run
from tests.house import prepare

ID = "01a1fe69-12b3-7d1c-aca4-d727b716e1c3"
PENDING, RUNNING = ("status", {"status": "pending"}), ("status", {"status": "running"})
QUEUED, STARTED = ("queued", {}), ("started", {})
ASKED = ("llm.asked", {"prompt": "?", "model": "default"})
WORD = "The server stopped while the script ran. It is not run a second time."


@dataclass
class Known:
    """What a client knows of one execution."""

    number: int = 7
    nonce: str = "n"
    asks: str = ""
    ids: set[str] = field(default_factory=lambda: {ID})
    found: dict[str, Any] = field(default_factory=dict)


def completed(**changes: Any) -> dict[str, Any]:
    result = {"number": 7, "nonce": "n", "answer": None}
    return {"execution_id": ID, "status": "completed", "result": result, "error": None, **changes}


@pytest.mark.slow
class TestCrash:
    async def test_every_execution_has_one_end_and_no_process_outlives_its_server(
        self, tmp_path: Path
    ):
        prepare(tmp_path / "data")

        findings = await run(tmp_path, executions=60, every=18)

        assert findings.is_good, "\n".join(findings.examples)
        assert findings.kills == 3
        assert findings.ends[COMPLETED] > 0
        assert findings.ends[SAID] > 0
        assert findings.witnessed > 0


class TestJudge:
    def test_finds_nothing_wrong_with_one_that_was_begun_once(self):
        book = Book("completed", 1, [PENDING, RUNNING])

        found = judge(Known(found=completed()), {ID: book}, {(1, 1)})

        assert found.end == COMPLETED

    def test_accepts_one_that_was_taken_up_again_while_it_waited_for_a_worker(self):
        book = Book("completed", 2, [PENDING, RUNNING, QUEUED, RUNNING, STARTED])

        found = judge(Known(found=completed()), {ID: book}, {(1, 1)})

        assert found.end == COMPLETED

    def test_accepts_one_that_was_begun_and_says_that_it_is_not_run_again(self):
        book = Book("interrupted", 2, [PENDING, RUNNING, RUNNING])
        ended = completed(status="error", result=None, error=WORD)

        found = judge(Known(found=ended), {ID: book}, {(1, 1)})

        assert found.end == SAID

    def test_misses_one_that_has_not_ended(self):
        found = judge(Known(found=completed(status="running")), {}, set())

        assert found.wrong == LOST

    def test_misses_one_whose_key_was_answered_with_another(self):
        book = Book("completed", 1, [PENDING, RUNNING])

        found = judge(Known(ids={ID, "other"}, found=completed()), {ID: book}, set())

        assert found.wrong == LOST

    def test_misses_one_that_the_database_does_not_have(self):
        found = judge(Known(found=completed()), {}, set())

        assert found.wrong == LOST

    def test_sees_a_second_process_that_ran_it(self):
        book = Book("completed", 1, [PENDING, RUNNING])

        found = judge(Known(found=completed()), {ID: book}, {(1, 1), (2, 2)})

        assert found.wrong == TWICE

    def test_sees_that_one_was_completed_by_a_process_that_had_not_begun_it(self):
        book = Book("completed", 2, [PENDING, RUNNING, RUNNING])

        found = judge(Known(found=completed()), {ID: book}, {(1, 1)})

        assert found.wrong == TWICE

    def test_sees_a_question_that_was_asked_again(self):
        book = Book("interrupted", 2, [PENDING, RUNNING, ASKED, RUNNING, ASKED])
        ended = completed(status="error", result=None, error=WORD)

        found = judge(Known(found=ended), {ID: book}, {(1, 1)})

        assert found.wrong == TWICE

    def test_sees_the_result_of_another(self):
        book = Book("completed", 1, [PENDING, RUNNING])
        other = completed(result={"number": 7, "nonce": "m", "answer": None})

        found = judge(Known(found=other), {ID: book}, {(1, 1)})

        assert found.wrong == WRONG

    def test_sees_an_error_that_does_not_say_what_became_of_it(self):
        book = Book("failed", 1, [PENDING, RUNNING])
        ended = completed(status="error", result=None, error="The worker is gone.")

        found = judge(Known(found=ended), {ID: book}, {(1, 1)})

        assert found.wrong == WRONG
