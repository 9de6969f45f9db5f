"""The checks of readiness run at once, each with its own deadline."""

import asyncio
from datetime import UTC, datetime

import pytest

from app.kernel.errors import Unavailable
from app.modules.health.domain import ALWAYS
from app.modules.health.service import HealthService

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DEADLINE_S = 5.0


async def passing() -> None: ...


PASSING = dict.fromkeys(ALWAYS, passing)


def service_with(check_timeout_s: float = DEADLINE_S) -> HealthService:
    return HealthService("1.2.3", lambda: NOW, check_timeout_s)


class TestPulse:
    def test_tells_the_version_and_the_time(self):
        pulse = service_with().pulse()

        assert (pulse.version, pulse.at) == ("1.2.3", NOW)


class TestReadiness:
    async def test_runs_the_checks_at_once(self):
        both = asyncio.Barrier(2)

        async def meeting() -> None:
            await both.wait()

        checks = PASSING | {"a": meeting, "b": meeting}

        readiness = await service_with().readiness(checks)

        assert readiness.is_ready

    async def test_gives_each_check_its_own_deadline(self):
        async def hanging() -> None:
            await asyncio.Event().wait()

        readiness = await service_with(0.01).readiness(PASSING | {"a.slow": hanging})

        assert readiness.checks == dict.fromkeys(ALWAYS, True) | {"a.slow": False}

    async def test_answers_all_who_ask_meanwhile_from_one_run(self):
        calls = 0
        gate = asyncio.Event()

        async def counting() -> None:
            nonlocal calls
            calls += 1
            await gate.wait()

        service = service_with()
        asked = [asyncio.create_task(service.readiness(PASSING | {"a": counting}))] * 5
        gate.set()

        answers = await asyncio.gather(*asked)

        assert calls == 1
        assert all(answer.is_ready for answer in answers)

    async def test_runs_again_for_the_next_who_asks(self):
        outcomes = [Unavailable("Gone."), None]

        async def recovering() -> None:
            if (error := outcomes.pop(0)) is not None:
                raise error

        service = service_with()
        first = await service.readiness(PASSING | {"a": recovering})
        second = await service.readiness(PASSING | {"a": recovering})

        assert (first.is_ready, second.is_ready) == (False, True)

    async def test_goes_on_for_the_others_when_one_who_asked_gives_up(self):
        gate = asyncio.Event()
        service = service_with()
        checks = PASSING | {"a": gate.wait}
        impatient = asyncio.create_task(service.readiness(checks))
        patient = asyncio.create_task(service.readiness(checks))
        await asyncio.sleep(0)

        impatient.cancel()
        gate.set()

        assert (await patient).is_ready

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (Unavailable("It is gone."), "It is gone."),
            (ConnectionError("postgresql://insula:hidden-word@db"), "ConnectionError"),
            (KeyError("hidden-word"), "KeyError"),
        ],
    )
    async def test_logs_what_failed_and_no_secret(self, error, reason, caplog):
        async def failing() -> None:
            raise error

        await service_with().readiness(PASSING | {"a.b": failing})

        [record] = caplog.records
        assert record.message == "health.check-failed"
        assert record.fields == {"check": "a.b", "reason": reason}
