"""Scripts of every kind at once: each ends as it should, and nothing is left behind."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sandbox.load import KINDS
from benchmarks.sandbox.soak import Findings, Look, judge, run
from tests.house import prepare

LOOK = Look(
    at_s=0.0,
    server_kib=150_000,
    zygote_kib=15_000,
    server_files=70,
    zygote_files=20,
    zombies=frozenset(),
)


def findings(looks: list[Look], last: Look = LOOK) -> Findings:
    return Findings(60.0, Counter(), looks, (LOOK, last))


@pytest.mark.slow
class TestSoak:
    async def test_ends_every_script_as_it_should_and_leaves_nothing_behind(self, tmp_path: Path):
        prepare(tmp_path / "data")

        found = await run(tmp_path, seconds=3, seed=1)

        assert found.wrong == []
        assert len(found.ends) == len(KINDS)
        assert found.looks


class TestJudge:
    def test_finds_nothing_wrong_where_nothing_grows(self):
        found = list(judge(findings([LOOK] * 20)))

        assert found == []

    def test_sees_memory_that_grows(self):
        looks = [replace(LOOK, server_kib=150_000 + 2000 * place) for place in range(20)]

        found = list(judge(findings(looks)))

        assert len(found) == 1
        assert "RSS of the server" in found[0]

    def test_does_not_blame_what_fills_at_the_beginning(self):
        looks = [replace(LOOK, server_kib=50_000)] * 5 + [LOOK] * 15

        found = list(judge(findings(looks)))

        assert found == []

    def test_sees_files_that_stay_open(self):
        found = list(judge(findings([LOOK] * 20, replace(LOOK, server_files=90))))

        assert found == ["the server had 70 files open when idle, and has 90"]

    def test_does_not_blame_connections_that_were_needed_for_the_first_time(self):
        found = list(judge(findings([LOOK] * 20, replace(LOOK, server_files=86))))

        assert found == []

    def test_sees_a_zombie_that_nobody_reaps(self):
        looks = [LOOK, *[replace(LOOK, zombies=frozenset({5}))] * 3, LOOK]

        found = list(judge(findings(looks)))

        assert found == ["processes [5] are zombies"]

    def test_gives_a_process_that_has_just_ended_the_time_to_be_reaped(self):
        looks = [LOOK, replace(LOOK, zombies=frozenset({5})), LOOK]

        found = list(judge(findings(looks)))

        assert found == []
