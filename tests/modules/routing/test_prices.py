"""Prices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.routing.domain.answers import Tokens
from app.modules.routing.domain.prices import Price, cost_nanos, most_cost_nanos

MINI = Price("v", "USD", 150_000, 600_000, 75_000)
ALL = Price("v", "USD", 1_000, 10_000, 100, 1_250, 20_000, 3_000, 40_000)

counts = st.integers(0, 10_000_000)


class TestCostNanos:
    def test_prices_input_cached_and_output_apart(self):
        tokens = Tokens(input=1000, output=100, cached=400)

        assert cost_nanos(tokens, MINI) == 600 * 150 + 400 * 75 + 100 * 600

    def test_prices_every_part_apart(self):
        tokens = Tokens(1000, 100, 300, 200, 40, 100, 10)

        told = 400 * 1_000 + 300 * 100 + 200 * 1_250 + 100 * 3_000
        said = 50 * 10_000 + 40 * 20_000 + 10 * 40_000
        assert cost_nanos(tokens, ALL) == (told + said) // 1000

    def test_rounds_half_up_to_a_billionth(self):
        assert cost_nanos(Tokens(1, 0), Price("v", "USD", 1_500, 0)) == 2
        assert cost_nanos(Tokens(1, 0), Price("v", "USD", 1_499, 0)) == 1

    def test_takes_the_input_price_where_cached_has_none(self):
        tokens = Tokens(input=10, output=0, cached=10)

        assert cost_nanos(tokens, Price("v", "USD", 1_000_000, 0)) == 10_000

    def test_never_counts_more_cached_tokens_than_there_are(self):
        assert cost_nanos(Tokens(input=10, output=0, cached=99), MINI) == 10 * 75

    @pytest.mark.parametrize(
        ("tokens", "price"), [(None, MINI), (Tokens(1, 1), None), (Tokens(None, 1), MINI)]
    )
    def test_is_unknown_without_tokens_or_price(self, tokens, price):
        assert cost_nanos(tokens, price) is None


class TestMostCostNanos:
    def test_is_nothing_without_a_price(self):
        assert most_cost_nanos(10, 10, None) == 0

    @given(counts, counts, counts, counts, counts)
    def test_no_division_into_parts_costs_more(self, told, said, cached, written, reasoning):
        tokens = Tokens(told, said, cached, written, reasoning, written, cached)

        cost = cost_nanos(tokens, ALL)

        assert cost is not None
        assert cost <= most_cost_nanos(told, said, ALL)
