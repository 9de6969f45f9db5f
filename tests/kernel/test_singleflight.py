"""One question for all who ask at the same time."""

import asyncio

import pytest

from app.kernel.ports import SingleFlight
from tests.waiting import until


class Oracle:
    """Answers when it is let, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def oracle():
    return Oracle()


@pytest.fixture
def flights():
    return SingleFlight()


async def test_those_who_ask_together_share_one_answer(oracle, flights):
    asking = [asyncio.create_task(flights.join("one", oracle.ask)) for _ in range(50)]
    await until(lambda: oracle.asked)
    oracle.may_answer.set()

    assert await asyncio.gather(*asking) == [1] * 50


async def test_who_comes_later_asks_again(oracle, flights):
    oracle.may_answer.set()

    first = await flights.join("one", oracle.ask)
    second = await flights.join("one", oracle.ask)

    assert (first, second) == (1, 2)


async def test_other_keys_are_other_questions(oracle, flights):
    oracle.may_answer.set()

    found = await asyncio.gather(flights.join("one", oracle.ask), flights.join("two", oracle.ask))

    assert sorted(found) == [1, 2]


async def test_a_failure_is_everybodys_and_is_not_remembered(oracle, flights):
    oracle.error = ValueError("no")
    oracle.may_answer.set()

    found = await asyncio.gather(
        *(flights.join("one", oracle.ask) for _ in range(3)), return_exceptions=True
    )
    oracle.error = None

    assert [type(one) for one in found] == [ValueError] * 3
    assert await flights.join("one", oracle.ask) == 2


async def test_who_leaves_does_not_end_the_question_for_the_others(oracle, flights):
    leaving = asyncio.create_task(flights.join("one", oracle.ask))
    staying = asyncio.create_task(flights.join("one", oracle.ask))
    await until(lambda: oracle.asked)

    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    oracle.may_answer.set()

    assert await staying == 1


async def test_a_failure_that_nobody_waits_for_is_nobodys(oracle, flights, caplog):
    oracle.error = ValueError("no")
    leaving = asyncio.create_task(flights.join("one", oracle.ask))
    await until(lambda: oracle.asked)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    oracle.may_answer.set()
    oracle.error = None

    await until(lambda: len(asyncio.all_tasks()) == 1)

    assert not caplog.records
