"""What a run may do next, and what becomes of it after a crash."""

import pytest

from app.modules.runs.domain import (
    FINAL,
    MOVES,
    Effects,
    Event,
    after_crash,
    effects_of,
    sources_of,
)


def begun(key: str, *, is_idempotent: bool = False) -> Event:
    return Event(1, "effect.begun", {"key": key, "is_idempotent": is_idempotent}, 0)


def done(key: str, result: object) -> Event:
    return Event(2, "effect.done", {"key": key, "result": result}, 0)


class TestMoves:
    @pytest.mark.parametrize("status", sorted(FINAL))
    def test_nothing_comes_after_a_final_state(self, status):
        assert all(status not in MOVES or not MOVES[status] for status in [status])
        assert not any(status in sources_of(target) for target in FINAL)

    def test_only_a_run_that_has_not_begun_can_be_begun(self):
        assert "pending" in sources_of("running")
        assert sources_of("pending") == frozenset()

    def test_every_live_state_can_be_cancelled(self):
        assert sources_of("cancelled") == {"pending", "running", "awaiting"}


class TestEffects:
    def test_with_a_result_are_done(self):
        found = effects_of([begun("mail"), done("mail", {"id": 7})])

        assert found == Effects({"mail": {"id": 7}}, {})

    def test_without_a_result_were_only_begun(self):
        found = effects_of([begun("a"), begun("b", is_idempotent=True)])

        assert found == Effects({}, {"a": False, "b": True})

    def test_are_gathered_over_the_pages_of_a_log(self):
        before = effects_of([begun("a")])

        assert effects_of([done("a", 1)], before) == Effects({"a": 1}, {})

    def test_other_events_say_nothing_of_them(self):
        assert effects_of([Event(1, "output", {"key": "a"}, 0)]) == Effects()


class TestAfterCrash:
    @pytest.mark.parametrize(
        ("recovery", "effects", "verdict"),
        [
            ("continue", Effects(), "again"),
            ("interrupt", Effects(), "interrupted"),
            ("continue", Effects(done={"a": 1}), "again"),
            ("continue", Effects(begun={"a": True}), "again"),
            ("interrupt", Effects(begun={"a": True}), "interrupted"),
            ("continue", Effects(begun={"a": False}), "unknown"),
            ("interrupt", Effects(begun={"a": False}), "unknown"),
            ("continue", Effects(begun={"a": True, "b": False}), "unknown"),
        ],
    )
    def test_what_may_have_happened_is_never_done_again(self, recovery, effects, verdict):
        assert after_crash(recovery, effects) == verdict
