"""SurrealDB: when a connection is opened, shared, lost and opened again."""

import asyncio
import gc
from contextlib import suppress
from typing import Any

import pytest

from app.adapters.surreal import Surreal
from app.adapters.surreal.client import (
    FIRST_BACK_OFF_S,
    SurrealDown,
    SurrealError,
    SurrealRefused,
)
from tests.waiting import until


class FakeLink:
    description = "fake"

    def __init__(self, answers: list[dict[str, Any]] | None = None) -> None:
        self.is_alive = True
        self.is_closed = False
        self.gate = asyncio.Event()
        self._answers = answers or []

    async def run(self, text: str, variables: Any) -> dict[str, Any]:
        if text == "SLOW":
            await self.gate.wait()
        ok = {"result": [{"status": "OK", "result": text}]}
        return self._answers.pop(0) if self._answers else ok

    async def close(self) -> None:
        self.is_closed = True


class FakeDial:
    """Hands out links one after another; ``gate`` holds a call back until it is set."""

    def __init__(self, *links: FakeLink | Exception) -> None:
        self.links = list(links)
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> FakeLink:
        self.calls += 1
        await self.gate.wait()
        link = self.links.pop(0)
        if isinstance(link, Exception):
            raise link
        return link


class TestConnection:
    async def test_is_opened_once_for_all_who_ask_meanwhile(self):
        dial = FakeDial(FakeLink())
        surreal = Surreal(dial)

        await asyncio.gather(*(surreal.ping() for _ in range(10)))

        assert dial.calls == 1

    async def test_goes_on_opening_when_the_first_who_asked_gives_up(self):
        dial = FakeDial(FakeLink())
        dial.gate.clear()
        surreal = Surreal(dial)
        impatient = asyncio.create_task(surreal.ping())
        await until(lambda: dial.calls == 1)
        patient = asyncio.create_task(surreal.query("RETURN 1"))

        impatient.cancel()
        dial.gate.set()

        assert await patient == ["RETURN 1"]
        assert dial.calls == 1

    async def test_fails_quietly_when_nobody_waits_for_it_any_more(self):
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, it: complaints.append(it))
        dial = FakeDial(SurrealDown("Gone."))
        dial.gate.clear()
        impatient = asyncio.create_task(Surreal(dial).ping())
        await until(lambda: dial.calls == 1)
        impatient.cancel()
        await asyncio.wait([impatient])

        dial.gate.set()
        await until(lambda: not dial.links)
        await asyncio.sleep(0)
        gc.collect()

        assert complaints == []

    async def test_is_not_tried_again_before_the_back_off_is_over(self):
        clock = [0.0]
        dial = FakeDial(SurrealRefused("No."), SurrealDown("Gone."), FakeLink())
        surreal = Surreal(dial, now=lambda: clock[0])
        with pytest.raises(SurrealRefused):
            await surreal.ping()

        with pytest.raises(SurrealRefused, match="No") as refused:
            await surreal.ping()

        assert dial.calls == 1
        assert refused.value.extra["retry_after_s"] == FIRST_BACK_OFF_S
        clock[0] += FIRST_BACK_OFF_S
        with pytest.raises(SurrealDown, match="Gone"):
            await surreal.ping()
        clock[0] += FIRST_BACK_OFF_S
        with pytest.raises(SurrealDown, match="Gone"):
            await surreal.ping()
        assert dial.calls == 2
        clock[0] += FIRST_BACK_OFF_S
        await surreal.ping()

    async def test_is_given_up_at_its_deadline(self):
        dial = FakeDial(FakeLink())
        dial.gate.clear()
        surreal = Surreal(dial, connect_timeout_s=0.01)

        with pytest.raises(SurrealDown, match="in time"):
            await surreal.ping()

    async def test_is_opened_anew_when_it_was_lost(self):
        lost, fresh = FakeLink(), FakeLink()
        surreal = Surreal(FakeDial(lost, fresh))
        await surreal.ping()

        lost.is_alive = False
        await surreal.ping()

        assert lost.is_closed
        assert not fresh.is_closed

    async def test_is_opened_anew_once_when_the_sign_in_has_expired(self):
        expired = {"error": {"message": "The session has expired"}}
        surreal = Surreal(FakeDial(FakeLink([expired]), FakeLink([expired])))

        with pytest.raises(SurrealError, match="expired"):
            await surreal.ping()

    async def test_is_opened_anew_once_for_all_whose_sign_in_has_expired(self):
        expired = {"error": {"message": "The session has expired"}}
        stale = FakeLink([expired, expired])
        fresh = FakeLink()
        dial = FakeDial(stale, fresh)
        surreal = Surreal(dial)
        slow = asyncio.create_task(surreal.query("SLOW"))
        await until(lambda: dial.calls == 1)
        await surreal.ping()

        stale.gate.set()
        fresh.gate.set()
        await slow

        assert dial.calls == 2

    async def test_begins_a_new_back_off_after_a_success(self):
        clock = [0.0]
        link = FakeLink()
        dial = FakeDial(SurrealDown("Gone."), link, SurrealDown("Gone again."))
        surreal = Surreal(dial, now=lambda: clock[0])
        with pytest.raises(SurrealDown):
            await surreal.ping()
        clock[0] += FIRST_BACK_OFF_S
        await surreal.ping()
        link.is_alive = False
        with pytest.raises(SurrealDown, match="again"):
            await surreal.ping()

        with pytest.raises(SurrealDown) as refused:
            await surreal.ping()

        assert refused.value.extra["retry_after_s"] == FIRST_BACK_OFF_S

    async def test_ends_with_close_even_while_it_is_being_opened(self):
        dial = FakeDial(FakeLink())
        dial.gate.clear()
        surreal = Surreal(dial)
        asked = asyncio.create_task(surreal.ping())
        await until(lambda: dial.calls == 1)

        await surreal.close()

        with suppress(asyncio.CancelledError):
            await asked
        assert asked.cancelled()
        with pytest.raises(SurrealDown, match="closed"):
            await surreal.ping()
