"""When a process counts as ready."""

from app.modules.health.domain import Readiness


class TestReadiness:
    def test_is_given_when_every_check_has_passed(self):
        readiness = Readiness.of({"surrealdb": True, "redis": True, "database": True, "x.y": True})

        assert readiness.is_ready
        assert readiness.checks["x.y"]

    def test_is_not_given_when_one_check_has_failed(self):
        readiness = Readiness.of({"surrealdb": True, "redis": True, "database": True, "x.y": False})

        assert not readiness.is_ready

    def test_counts_an_expected_check_that_nobody_made_as_failed(self):
        readiness = Readiness.of({"database": True})

        assert readiness.checks == {"surrealdb": False, "redis": False, "database": True}
        assert not readiness.is_ready
