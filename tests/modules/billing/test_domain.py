"""What limits a caller, what a period is, what is refused and how a report is written."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel import problems
from app.modules.billing.domain.faults import (
    BudgetSpent,
    budget_spent,
    limit_reached,
    too_many_tokens,
)
from app.modules.billing.domain.limits import (
    NO_LIMIT,
    TIERS,
    Bound,
    Budget,
    Limits,
    bounds_of,
    subject_of,
)
from app.modules.billing.domain.periods import (
    DAY_MS,
    Spent,
    day_of,
    ends_at_ms,
    first_day,
    month_of,
)
from app.modules.billing.domain.reports import aligned, csv_line, money
from app.modules.billing.domain.standings import (
    Allowance,
    Standing,
    Use,
    allowances_of,
    remaining_of,
)
from tests.modules.billing.calls import KEY, USER, budget, usage


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)


class TestTiers:
    def test_have_the_requests_a_minute_of_the_contract(self):
        assert {name: limits.rpm for name, limits in TIERS.items()} == {
            "free": 20,
            "pro": 60,
            "power": 120,
            "team": 200,
        }

    def test_a_higher_one_gives_more_of_everything(self):
        tiers = list(TIERS.values())

        for lower, higher in pairwise(tiers):
            assert lower.tpm < higher.tpm
            assert lower.parallel < higher.parallel
            assert lower.budget_nanos < higher.budget_nanos


class TestBoundsOf:
    def test_an_owner_without_own_limits_is_not_limited(self):
        assert bounds_of(USER, KEY, None, {}) == ()

    def test_limits_that_limit_nothing_are_none(self):
        assert bounds_of(USER, KEY, None, {("key", KEY): Limits(), ("user", USER): Limits()}) == ()

    def test_a_session_has_no_limits_of_a_key(self):
        assert bounds_of(USER, None, None, {("key", KEY): Limits(rpm=1)}) == ()

    def test_a_key_and_a_tier_limit_two_subjects(self):
        key, user = bounds_of(USER, KEY, "free", {("key", KEY): Limits(rpm=5)})

        assert key == Bound(subject_of("key", KEY), rpm=5, rpm_holder="key")
        assert (user.subject, user.rpm, user.rpm_holder) == (subject_of("user", USER), 20, "tier")

    def test_of_a_tier_and_own_limits_the_strictest_counts_each_time(self):
        own = {("user", USER): Limits(rpm=500, tpm=7)}

        (user,) = bounds_of(USER, None, "free", own)

        assert (user.rpm, user.rpm_holder) == (20, "tier")
        assert (user.tpm, user.tpm_holder) == (7, "user")

    def test_every_budget_counts(self):
        own = {("user", USER): Limits(budget_nanos=5, budget_period="day")}

        (user,) = bounds_of(USER, None, "pro", own)

        assert user.budgets == (
            Budget(5, "day", "user"),
            Budget(20_000_000_000, "month", "tier"),
        )

    def test_no_limit_at_all_is_a_limit_of_nothing(self):
        (user,) = bounds_of(USER, None, None, {("user", USER): Limits(parallel=0)})

        assert (user.rpm, user.tpm, user.parallel) == (NO_LIMIT, NO_LIMIT, 0)


class TestPeriods:
    @given(st.integers(0, 60_000))
    def test_a_day_is_in_the_month_that_begins_before_it(self, day):
        month = month_of(day)

        assert first_day(month) <= day < first_day(month + 1)

    def test_a_day_ends_at_midnight(self):
        assert ends_at_ms("day", ms(2026, 2, 28, 23, 59)) == ms(2026, 3, 1)

    def test_a_month_ends_with_its_last_day(self):
        assert ends_at_ms("month", ms(2027, 12, 5)) == ms(2028, 1, 1)

    def test_all_time_never_ends(self):
        assert ends_at_ms("total", ms(2026, 1, 1)) is None


class TestSpent:
    def test_another_day_begins_at_nothing_and_keeps_the_month(self):
        before = Spent(1, 9, month_of(10), 9, 10, 9)

        after = before.plus(11, 2, version=2)

        assert after == Spent(2, 11, month_of(10), 11, 11, 2)

    def test_a_late_row_of_yesterday_is_none_of_today(self):
        before = Spent(1, 9, month_of(10), 9, 10, 4)

        after = before.plus(9, 2, version=2)

        assert after == Spent(2, 11, month_of(10), 11, 10, 4)

    def test_a_late_row_of_last_month_is_none_of_this_one(self):
        first = first_day(month_of(100))
        before = Spent(1, 9, month_of(100), 9, 100, 4)

        after = before.plus(first - 1, 2, version=2)

        assert (after.total_nanos, after.month_nanos, after.day_nanos) == (11, 9, 4)

    def test_what_was_spent_in_another_period_is_not_spent_in_this_one(self):
        spent = Spent(1, 9, 3, 8, 4, 7)

        assert [spent.within(p, 4, 3) for p in ("day", "month", "total")] == [7, 8, 9]
        assert [spent.within(p, 5, 5) for p in ("day", "month", "total")] == [0, 0, 9]

    @given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9)), min_size=1))
    def test_rows_in_any_order_add_up_to_the_same_totals(self, rows):
        spent = Spent()

        for version, (day, nanos) in enumerate(rows):
            spent = spent.plus(day, nanos, version=version)

        newest = max(day for day, _ in rows)
        assert spent.total_nanos == sum(nanos for _, nanos in rows)
        assert spent.day_nanos == sum(nanos for day, nanos in rows if day == newest)
        month = month_of(newest)
        assert spent.month_nanos == sum(n for day, n in rows if month_of(day) == month)

    def test_a_moment_is_in_its_day(self):
        assert day_of(2 * DAY_MS - 1) == 1


class TestFaults:
    def test_a_limit_says_whose_it_is_and_when_to_come_back(self):
        problem = problems.of(limit_reached("rpm", 20, "tier", 2.2))

        assert (problem.status, problem.code) == (429, "limit-reached")
        assert problem.headers == {"retry-after": "3"}
        assert problem.detail.startswith("This account's tier has 20 requests a minute")

    def test_a_call_too_large_says_what_to_change(self):
        problem = problems.of(too_many_tokens(90, 80, "key", 60.0))

        assert "ask for fewer output tokens" in problem.detail
        assert problem.extra["should_retry"] is False

    @pytest.mark.parametrize(
        ("period", "wait_s"), [("day", 60), ("month", 60 + 86_400 * 30), ("total", 86_400)]
    )
    def test_a_spent_budget_says_when_it_begins_anew(self, period, wait_s):
        (one,) = budget(5, period)

        fault = budget_spent(one, ms(2026, 1, 1, 23, 59), is_held=False)

        assert fault.extra["retry_after_s"] == wait_s
        assert fault.extra["should_retry"] is False

    def test_a_held_budget_may_be_free_at_any_moment(self):
        (one,) = budget(5, "month")

        fault = budget_spent(one, ms(2026, 1, 1), is_held=True)

        assert isinstance(fault, BudgetSpent)
        assert (fault.extra["retry_after_s"], fault.extra["should_retry"]) == (1.0, True)


class TestCountedTokens:
    def test_are_what_went_in_and_what_came_out(self):
        assert usage(input_tokens=3, output_tokens=4, reasoning_tokens=2).counted_tokens == 7

    def test_are_none_when_nobody_told(self):
        assert usage().counted_tokens == 0

    def test_are_none_when_no_model_was_asked(self):
        assert usage(input_tokens=3, output_tokens=4, is_cached=True).counted_tokens == 0


class TestRemainingOf:
    def test_is_nothing_without_a_limit_of_requests_or_tokens(self):
        assert remaining_of([Use(Bound("key:1", parallel=3), 7, 7, 1.0)]) is None

    def test_is_the_tightest_of_all_subjects(self):
        key = Use(Bound("key:1", rpm=9, tpm=50), requests=1, tokens=60, reset_s=5.0)
        user = Use(Bound("user:1", rpm=20), requests=18, tokens=60, reset_s=7.0)

        found = remaining_of([key, user])

        assert (found.limit_requests, found.remaining_requests) == (20, 2)
        assert (found.limit_tokens, found.remaining_tokens) == (50, 0)
        assert (found.reset_requests_s, found.reset_tokens_s) == (7.0, 5.0)


class TestAllowancesOf:
    def test_are_one_for_each_limit_with_what_is_left(self):
        bound = Bound("user:1", 20, 100, 4, budget(50, "day"), "tier", "user", "tier")
        standing = Standing(5, 130, 1, 7, 2.5, {"day": 13, "total": 99})
        now_ms = ms(2026, 1, 1, 12)

        found = allowances_of((bound,), (standing,), now_ms)

        assert found == [
            Allowance("rpm", "tier", 20, 15, now_ms + 2500),
            Allowance("tpm", "user", 100, 0, now_ms + 2500),
            Allowance("parallel", "tier", 4, 3, None),
            Allowance("budget", "key", 50, 30, ms(2026, 1, 2), "day"),
        ]

    def test_of_a_budget_for_all_time_have_no_reset(self):
        bound = Bound("user:1", budgets=budget(50))

        (found,) = allowances_of((bound,), (Standing(spent_nanos={"total": 60}),), 0)

        assert (found.left, found.resets_at_ms, found.period) == (0, None, "total")


class TestCsvLine:
    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
    def test_text_that_would_be_a_formula_is_text(self, start):
        cell = csv_line([f"{start}cmd()"]).removesuffix("\r\n").strip('"')

        assert cell.startswith("'")

    def test_numbers_stay_numbers_and_what_is_not_known_is_empty(self):
        assert csv_line(["m", -3, None, True]) == "m,-3,,True\r\n"

    def test_commas_and_quotes_stay_in_their_cell(self):
        assert csv_line(['a,"b']) == '"a,""b"\r\n'


class TestAligned:
    def test_numbers_end_under_each_other(self):
        assert aligned(("day", "n"), [("2026-01-01", "1"), ("x", "1000")]) == (
            "day            n\n2026-01-01     1\nx           1000"
        )

    def test_without_rows_is_its_head(self):
        assert aligned(("day", "n"), []) == "day  n"


class TestMoney:
    def test_shows_every_digit_of_every_currency(self):
        assert money({"USD": 1_000_000_001, "EUR": 5}) == "0.000000005 EUR, 1.000000001 USD"

    def test_of_nothing_is_empty(self):
        assert money({}) == ""
