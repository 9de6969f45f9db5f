"""What the engine and a worker have found, judged: enough for untrusted code, or not."""

import pytest

from app.modules.sandbox.adapters.docker.walls import capabilities, down, lacking

ABLE = {"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True}
FACTS = {**ABLE, "SecurityOptions": ["name=seccomp,profile=default"]}
INNER = {"limits": True, "capabilities": True, "landlock": True, "seccomp": True}


class TestLacking:
    def test_finds_nothing_missing_in_an_able_engine(self):
        assert lacking(ABLE) == ""

    @pytest.mark.parametrize("fact", ABLE)
    def test_names_what_the_engine_cannot_limit(self, fact: str):
        assert "cannot limit" in lacking({**ABLE, fact: False})

    def test_takes_a_fact_that_is_not_there_for_a_no(self):
        assert "memory, processes, processor time" in lacking({})


class TestDown:
    def test_finds_nothing_missing_where_all_walls_stand(self):
        assert down(INNER) == ""

    def test_does_without_landlock(self):
        assert down({**INNER, "landlock": False}) == ""

    @pytest.mark.parametrize("wall", ["limits", "capabilities", "seccomp"])
    def test_names_an_essential_wall_that_is_missing(self, wall: str):
        assert wall in down({**INNER, wall: False})


class TestCapabilities:
    def test_is_docker_where_all_walls_stand(self):
        found = capabilities(FACTS, INNER, is_gvisor=False)

        assert (found.tier, found.reason) == ("docker", "")

    def test_is_gvisor_without_landlock(self):
        found = capabilities(FACTS, {**INNER, "landlock": False}, is_gvisor=True)

        assert found.tier == "gvisor"

    @pytest.mark.parametrize("wall", ["limits", "capabilities", "seccomp"])
    def test_is_none_where_a_worker_lacks_an_essential_wall(self, wall: str):
        found = capabilities(FACTS, {**INNER, wall: False}, is_gvisor=True)

        assert found.tier == "none"
        assert wall in found.reason

    def test_takes_a_wall_that_is_not_named_for_one_that_is_down(self):
        assert capabilities(FACTS, {}, is_gvisor=False).tier == "none"

    def test_says_why_each_wall_is_down(self):
        found = capabilities({}, {**INNER, "landlock": False}, is_gvisor=False)

        assert {wall.name for wall in found.walls if wall.why} == {
            "engine-seccomp",
            "gvisor",
            "landlock",
        }
