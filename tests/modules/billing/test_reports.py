"""Reports: calls one by one, and what they add up to."""

from uuid import UUID

import pytest

from app.kernel.db import uuid7
from app.modules.billing.domain.periods import DAY_MS
from app.modules.billing.domain.reports import UsageFilter
from app.modules.billing.service.reports import NobodyThere, UsageReports
from tests.modules.billing.calls import OTHER, USER, usage
from tests.modules.billing.desks import Desk, people

MINE = UsageFilter(user_id=USER)


def settle(desk: Desk, **changes) -> UUID:
    one = usage(**({"user_id": USER} | changes))
    desk.meter.settle(one)
    return one.id


class TestList:
    async def test_pages_newest_first_and_shows_only_the_users_own(self, desk):
        ids = [settle(desk) for _ in range(5)]
        settle(desk, user_id=OTHER)

        first = await desk.reports.list(MINE, None, 3)
        second = await desk.reports.list(MINE, first[-1].id, 3)

        assert [row.id for row in [*first, *second]] == ids[::-1]

    async def test_a_cursor_of_nobody_is_an_empty_page(self, desk):
        assert await desk.reports.list(UsageFilter(user_id=uuid7()), uuid7(), 3) == []

    @pytest.mark.parametrize(
        ("wanted", "models"),
        [
            ({"model": "b"}, ["b"]),
            ({"key_id": UUID(int=7)}, ["c"]),
            ({"from_ms": 20}, ["c", "b"]),
            ({"to_ms": 20}, ["a"]),
            ({"from_ms": 20, "to_ms": 30}, ["b"]),
            ({"from_ms": 0, "to_ms": 0}, []),
        ],
    )
    async def test_selects_by_model_key_and_time(self, desk, wanted, models):
        settle(desk, model="a", started_at_ms=10)
        settle(desk, model="b", started_at_ms=20)
        settle(desk, model="c", started_at_ms=30, credential_id=UUID(int=7))

        rows = await desk.reports.list(UsageFilter(USER, **wanted), None, 9)

        assert [row.model for row in rows] == models


class TestSums:
    async def test_add_up_every_kind_of_token_and_every_currency(self, desk):
        tokens = {
            "input_tokens": 1,
            "output_tokens": 2,
            "cached_tokens": 3,
            "cache_write_tokens": 4,
            "reasoning_tokens": 5,
            "audio_input_tokens": 6,
            "audio_output_tokens": 7,
        }
        settle(desk, **tokens, cost_nanos=10, currency="USD")
        settle(desk, **tokens, cost_nanos=5, currency="EUR")
        settle(desk, cost_nanos=1, currency="USD")

        (found,) = await desk.reports.sums(MINE, "model", None, 9)

        assert (found.group, found.calls, found.costs_nanos) == ("m", 3, {"USD": 11, "EUR": 5})
        assert {name: getattr(found, name) for name in tokens} == {
            name: 2 * count for name, count in tokens.items()
        }

    async def test_count_calls_with_tokens_and_no_price_apart(self, desk):
        settle(desk, input_tokens=5)
        settle(desk, output_tokens=5, cost_nanos=0, currency="USD")
        settle(desk, outcome="failed")

        (found,) = await desk.reports.sums(MINE, "model", None, 9)

        assert (found.calls, found.unpriced_calls) == (3, 1)

    @pytest.mark.parametrize(
        ("by", "groups"),
        [
            ("day", ["1970-01-03", "1970-01-02", "1970-01-01"]),
            ("model", ["a", "b", "c"]),
            ("key", [str(UUID(int=number)) for number in (7, 8, 9)]),
        ],
    )
    async def test_come_in_pages_in_their_order(self, desk, by, groups):
        for number, model in enumerate("bca"):
            day, key = number * DAY_MS + number, UUID(int=7 + number)
            for _ in range(2):
                settle(desk, model=model, started_at_ms=day, credential_id=key)

        first = await desk.reports.sums(MINE, by, None, 2)
        second = await desk.reports.sums(MINE, by, first[-1].group, 2)

        assert [one.group for one in [*first, *second]] == groups
        assert {one.calls for one in [*first, *second]} == {2}

    async def test_of_everybody_are_over_all_users(self, desk):
        settle(desk)
        settle(desk, user_id=OTHER)

        (found,) = await desk.reports.sums(UsageFilter(), "model", None, 9)

        assert found.calls == 2

    async def test_of_nothing_are_none(self, desk):
        assert await desk.reports.sums(MINE, "day", None, 9) == []


class TestEvery:
    async def test_row_is_in_exactly_one_page(self, desk):
        ids = {settle(desk) for _ in range(5)}
        reports = UsageReports(desk.db, desk.store, sheet_rows=2)

        pages = [page async for page in reports.every_row(MINE)]

        assert [len(page) for page in pages] == [2, 2, 1]
        assert {row.id for page in pages for row in page} == ids

    async def test_sum_is_in_exactly_one_page(self, desk):
        for model in "abc":
            settle(desk, model=model)
        reports = UsageReports(desk.db, desk.store, sheet_rows=2)

        pages = [page async for page in reports.every_sum(MINE, "model")]

        assert [[one.group for one in page] for page in pages] == [["a", "b"], ["c"]]


class TestUserByEmail:
    async def test_finds_an_address_however_it_is_written(self, desk):
        await people(desk.db)

        assert await desk.reports.user_by_email("Anna@Example.ORG") == USER

    async def test_an_unknown_address_is_named(self, desk):
        with pytest.raises(NobodyThere, match="nobody@example"):
            await desk.reports.user_by_email("nobody@example.org")
