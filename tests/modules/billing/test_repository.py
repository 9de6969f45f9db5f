"""Statements of billing, on both databases."""

from uuid import UUID

import pytest
from sqlalchemy import text

from app.modules.billing.domain.limits import Limits
from app.modules.billing.domain.periods import DAY_MS
from app.modules.billing.domain.reports import UsageFilter
from app.modules.billing.models import AccountRow, LimitsRow
from app.modules.billing.repository.limits import LimitsRepository
from app.modules.billing.repository.spent import SpentRepository
from app.modules.billing.repository.sums import SumRepository
from app.modules.billing.repository.usage import UsageRepository
from tests.modules.billing.calls import KEY, OTHER, USER, usage
from tests.modules.billing.desks import count, people

MINE = UsageFilter(user_id=USER)


class TestStore:
    async def test_returns_which_rows_are_new(self, db):
        known, fresh = usage(), usage()
        async with db.begin() as session:
            await UsageRepository(session).store([known])

        async with db.begin() as session:
            stored = await UsageRepository(session).store([known, fresh])

        assert stored == {fresh.id}
        assert await count(db) == 2

    async def test_a_row_that_is_there_stays_as_it_is(self, db):
        known = usage(user_id=USER, model="first")
        async with db.begin() as session:
            await UsageRepository(session).store([known])
            await UsageRepository(session).store([usage(id=known.id, user_id=USER, model="other")])

        async with db.read() as session:
            (row,) = await UsageRepository(session).page(MINE, None, 9)
        assert row.model == "first"


class TestIndexes:
    @pytest.mark.parametrize("column", ["user_id", "credential_id"])
    async def test_a_span_of_time_of_one_of_them_is_not_searched_row_by_row(self, sqlite, column):
        where = f"{column} = 'x' AND id > 'x' AND started_at_ms > 1"
        statement = text(f"EXPLAIN QUERY PLAN SELECT * FROM billing_usage WHERE {where}")

        async with sqlite.read() as session:
            (step,) = await session.execute(statement)

        assert f"USING INDEX ix_billing_usage_{column}_id" in str(step)


class TestSums:
    @pytest.mark.parametrize("by", ["day", "model", "key"])
    async def test_are_the_same_on_both_databases(self, db, by):
        rows = [
            usage(
                user_id=USER,
                credential_id=UUID(int=n % 3),
                model="abc"[n % 3],
                started_at_ms=(n % 3) * DAY_MS + n,
                input_tokens=n,
                cost_nanos=None if n == 5 else n,
                currency="USD",
            )
            for n in range(9)
        ]
        async with db.begin() as session:
            await UsageRepository(session).store(rows)

        async with db.read() as session:
            first = await SumRepository(session).page(MINE, by, None, 2)
            second = await SumRepository(session).page(MINE, by, first[-1].group, 2)

        found = sorted(one.input_tokens for one in [*first, *second])
        assert found == [0 + 3 + 6, 1 + 4 + 7, 2 + 5 + 8]
        assert sum(one.costs_nanos["USD"] for one in [*first, *second]) == 31
        assert sum(one.unpriced_calls for one in [*first, *second]) == 1


class TestSpent:
    async def test_begins_with_the_sum_of_the_rows(self, db):
        rows = [
            usage(user_id=USER, cost_nanos=cost, started_at_ms=day * DAY_MS)
            for cost, day in ((1, 0), (10, 31), (100, 40))
        ]
        async with db.begin() as session:
            await UsageRepository(session).store(rows)
            found = await SpentRepository(session).begin(f"user:{USER.hex}", 40 * DAY_MS + 1)

        assert (found.total_nanos, found.month_nanos, found.day_nanos) == (111, 110, 100)

    async def test_of_several_days_gives_each_its_version(self, db):
        subject = f"user:{USER.hex}"
        rows = [usage(user_id=USER, cost_nanos=5, started_at_ms=day * DAY_MS) for day in (3, 2)]
        async with db.begin() as session:
            await SpentRepository(session).begin(subject, 0)

        async with db.begin() as session:
            added = await SpentRepository(session).add(rows)

        assert [(one.version, one.day, one.nanos) for one in added] == [(1, 2, 5), (2, 3, 5)]
        async with db.read() as session:
            spent = (await SpentRepository(session).known([subject]))[subject]
        assert (spent.version, spent.total_nanos, spent.day, spent.day_nanos) == (2, 10, 3, 5)

    async def test_rows_that_cost_nothing_make_no_version(self, db):
        async with db.begin() as session:
            await SpentRepository(session).begin(f"user:{USER.hex}", 0)
            rows = [usage(user_id=USER, cost_nanos=cost) for cost in (0, None)]

            assert await SpentRepository(session).add(rows) == []


class TestLimits:
    async def test_putting_twice_is_one_row(self, db):
        async with db.begin() as session:
            await LimitsRepository(session).put("key", KEY, Limits(rpm=1))
            await LimitsRepository(session).put("key", KEY, Limits(tpm=2))

        async with db.read() as session:
            found = await LimitsRepository(session).of_caller(USER, KEY)
        assert found == {("key", KEY): Limits(tpm=2)}
        assert await count(db, LimitsRow) == 1

    async def test_of_a_caller_are_its_own_alone(self, db):
        async with db.begin() as session:
            for user_id in (USER, OTHER):
                await LimitsRepository(session).put("user", user_id, Limits(rpm=1))

        async with db.read() as session:
            found = await LimitsRepository(session).of_caller(USER, None)

        assert set(found) == {("user", USER)}

    async def test_a_tier_is_replaced(self, db):
        await people(db)
        async with db.begin() as session:
            await LimitsRepository(session).put_tier(USER, "pro")
            await LimitsRepository(session).put_tier(USER, "team")

        async with db.read() as session:
            assert await LimitsRepository(session).tier(USER) == "team"
        assert await count(db, AccountRow) == 1

    async def test_knows_whose_a_key_is(self, db):
        await people(db)

        async with db.read() as session:
            limits = LimitsRepository(session)
            found = [await limits.user_of("key", KEY), await limits.user_of("user", OTHER)]
            nobody = [await limits.user_of("key", USER), await limits.user_of("user", KEY)]

        assert found == [USER, OTHER]
        assert nobody == [None, None]
