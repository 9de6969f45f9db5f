"""Which upstream a call goes to."""

from collections import Counter
from contextlib import suppress
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.routing.domain.choice import (
    Candidate,
    Policy,
    Wish,
    decide,
    peak_ewma,
)
from app.modules.routing.domain.preferences import (
    NO_PREFERENCES,
    BadPreferences,
    Preferences,
    micros_per_million,
    read_preferences,
)
from app.modules.routing.domain.prices import FREE, Price

POLICIES = ["ordered", "weighted", "least-busy", "lowest-latency", "lowest-cost", "affinity"]
CHEAP = Price("v", "USD", 100_000, 400_000)
DEAR = Price("v", "USD", 3_000_000, 15_000_000)
NAMES = ["alpha", "beta", "gamma", "delta"]


def some(count: int, **same) -> list[Candidate]:
    return [Candidate(i, NAMES[i], "m", **same) for i in range(count)]


def changed(candidate: Candidate, **changes) -> Candidate:
    return msgspec.structs.replace(candidate, **changes)


def order(candidates, policy: Policy = "ordered", preferences=NO_PREFERENCES, wish=None):
    return decide(candidates, policy, preferences, wish or Wish()).order


def texts(candidates, policy: Policy = "ordered", preferences=NO_PREFERENCES, wish=None):
    return [r.text for r in decide(candidates, policy, preferences, wish or Wish()).reasons]


def evenly(count: int) -> list[float]:
    return [(step + 0.5) / count for step in range(count)]


candidates_of_any_kind = st.lists(
    st.builds(
        Candidate,
        index=st.just(0),
        upstream=st.sampled_from(NAMES),
        model=st.sampled_from(["m", "n"]),
        weight=st.integers(-1, 5),
        price=st.sampled_from([None, CHEAP, DEAR]),
        in_flight=st.integers(0, 300),
        limit=st.integers(0, 256),
        queued=st.integers(0, 9),
        ttft_ewma_ms=st.none() | st.floats(0, 1e6),
        is_open=st.booleans(),
        is_stale=st.booleans(),
        is_local=st.booleans(),
        capabilities=st.frozensets(st.sampled_from(["tools", "vision"])),
        context_tokens=st.sampled_from([0, 8_000]),
    ),
    max_size=6,
).map(lambda found: [changed(c, index=place) for place, c in enumerate(found)])
draws = st.floats(0, 1, exclude_max=True)
wishes = st.builds(
    Wish,
    affinity_hash=st.integers(0, 2**64 - 1),
    tokens_estimate=st.integers(0, 100_000),
    draws=st.tuples(draws, draws),
    needs=st.frozensets(st.sampled_from(["tools", "vision"])),
)
preferences_of_any_kind = st.builds(
    Preferences,
    order=st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    only=st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    ignore=st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    sort=st.sampled_from([None, "price", "throughput", "latency"]),
    max_prompt_micros=st.none() | st.integers(0, 4_000_000),
    allow_fallbacks=st.booleans(),
    require_parameters=st.booleans(),
    zdr=st.booleans(),
)


class TestDecide:
    @given(candidates_of_any_kind, st.sampled_from(POLICIES), preferences_of_any_kind, wishes)
    def test_says_of_each_candidate_once_why(self, candidates, policy, preferences, wish):
        decision = decide(candidates, policy, preferences, wish)

        told = sorted(reason.index for reason in decision.reasons)
        kept = tuple(r.index for r in decision.reasons if r.verdict == "kept")
        assert told == [c.index for c in candidates]
        assert kept == decision.order

    @given(candidates_of_any_kind, st.sampled_from(POLICIES), wishes)
    def test_always_leaves_one_without_preferences(self, candidates, policy, wish):
        assert bool(order(candidates, policy, wish=wish)) == bool(candidates)

    def test_of_nothing_is_nothing(self):
        assert order([]) == ()

    def test_leaves_a_resting_one_out(self):
        first, second = some(2)

        decision = decide([changed(first, is_open=True), second], "ordered", NO_PREFERENCES, Wish())

        assert decision.order == (1,)
        assert decision.reasons[0].text == "resting"

    def test_leaves_a_stale_one_out(self):
        first, second = some(2)

        assert order([changed(first, is_stale=True), second]) == (1,)

    def test_tries_the_least_bad_first_when_all_are_bad(self):
        one, two, three = some(3, is_open=True)
        bad = [changed(one, is_stale=True), two, changed(three, is_open=False, is_stale=True)]

        assert order(bad) == (2, 1, 0)

    def test_says_that_one_is_the_last_resort(self):
        assert texts(some(1, is_open=True)) == ["in order; resting, and none is better"]

    def test_tries_what_is_too_small_last(self):
        first, second = some(2)
        small = changed(first, context_tokens=8_000)

        assert order([small, second], wish=Wish(tokens_estimate=9_000)) == (1, 0)

    def test_tries_what_lacks_a_capability_last(self):
        first, second = some(2)
        blind = changed(first, capabilities=frozenset({"tools"}))

        assert order([blind, second], wish=Wish(needs=frozenset({"vision"}))) == (1, 0)

    def test_holds_nothing_against_unknown_capabilities(self):
        assert order(some(2), wish=Wish(needs=frozenset({"vision"}))) == (0, 1)

    def test_keeps_indexes_that_do_not_begin_at_0(self):
        assert order([Candidate(7, "alpha", "m"), Candidate(5, "beta", "m")]) == (5, 7)


class TestOrdered:
    def test_is_by_position(self):
        assert order(some(3)) == (0, 1, 2)


class TestWeighted:
    def test_draws_in_the_proportion_of_the_weights(self):
        one, two, three = some(3)
        given = [changed(one, weight=1), changed(two, weight=2), changed(three, weight=7)]

        first = Counter(order(given, "weighted", wish=Wish(draws=(d, 0)))[0] for d in evenly(100))

        assert first == {0: 10, 1: 20, 2: 70}

    def test_draws_the_fallbacks_by_weight_too(self):
        one, two, three = some(3)
        given = [changed(one, weight=100), changed(two, weight=1), changed(three, weight=3)]
        orders = [order(given, "weighted", wish=Wish(draws=(d, 0))) for d in evenly(1040)]

        second = Counter(found[1] for found in orders if found[0] == 0)

        assert second == {1: 250, 2: 750}

    def test_draws_what_weighs_nothing_last(self):
        first, second = some(2)

        assert order([changed(first, weight=0), second], "weighted") == (1, 0)

    def test_is_by_position_when_nothing_weighs_anything(self):
        assert order(some(3, weight=0), "weighted", wish=Wish(draws=(0.9, 0))) == (0, 1, 2)


class TestLeastBusy:
    def test_counts_those_who_wait_too(self):
        first, second = some(2)
        busy = [changed(first, in_flight=1, queued=2), changed(second, in_flight=2)]

        assert order(busy, "least-busy") == (1, 0)

    def test_measures_load_by_the_limit(self):
        first, second = some(2, in_flight=4)
        busy = [changed(first, limit=8), changed(second, limit=256)]

        assert order(busy, "least-busy") == (1, 0)

    def test_measures_load_by_the_weight_when_one_has_no_limit(self):
        first, second = some(2, in_flight=4)
        busy = [changed(first, weight=3), changed(second, limit=256)]

        assert order(busy, "least-busy") == (0, 1)

    def test_takes_turns_among_equals(self):
        first = Counter(
            order(some(4), "least-busy", wish=Wish(draws=(d, 0)))[0] for d in evenly(100)
        )

        assert first == {0: 25, 1: 25, 2: 25, 3: 25}


class TestLowestLatency:
    def test_takes_the_faster_of_the_two_that_were_drawn(self):
        given = [changed(c, ttft_ewma_ms=300 - 100 * c.index) for c in some(3)]

        assert order(given, "lowest-latency", wish=Wish(draws=(0.0, 0.0))) == (1, 2, 0)

    def test_never_draws_the_same_one_twice(self):
        given = [changed(c, ttft_ewma_ms=200 - 100 * c.index) for c in some(2)]

        found = {
            order(given, "lowest-latency", wish=Wish(draws=(a, b)))[0]
            for a in evenly(10)
            for b in evenly(10)
        }

        assert found == {1}

    def test_counts_the_calls_under_way(self):
        first, second = some(2)
        given = [
            changed(first, ttft_ewma_ms=100, in_flight=10),
            changed(second, ttft_ewma_ms=500, in_flight=1),
        ]

        assert order(given, "lowest-latency") == (1, 0)

    def test_tries_an_unknown_one_first(self):
        first, second = some(2)

        assert order([changed(first, ttft_ewma_ms=0.1), second], "lowest-latency") == (1, 0)


class TestLowestCost:
    def test_weighs_input_three_times(self):
        first, second = some(2)
        reads_dear = changed(first, price=Price("v", "USD", 4_000_000, 1_000_000))
        writes_dear = changed(second, price=Price("v", "USD", 1_000_000, 9_000_000))

        assert order([reads_dear, writes_dear], "lowest-cost") == (1, 0)

    def test_puts_what_has_no_price_last(self):
        first, second = some(2)

        assert order([first, changed(second, price=DEAR)], "lowest-cost") == (1, 0)

    def test_puts_what_is_free_first(self):
        first, second = some(2, price=CHEAP)
        free = changed(second, price=Price(FREE, "USD", 0, 0))

        assert order([first, free], "lowest-cost") == (1, 0)


class TestAffinity:
    def test_keeps_a_conversation_in_its_place(self):
        given = some(4)

        found = {
            order(given, "affinity", wish=Wish(affinity_hash=7, draws=(d, d)))[0]
            for d in evenly(20)
        }

        assert len(found) == 1

    def test_spreads_conversations(self):
        first = Counter(
            order(some(4), "affinity", wish=Wish(affinity_hash=n))[0] for n in range(1, 1001)
        )

        assert all(200 < count < 300 for count in first.values())

    def test_spreads_them_by_weight(self):
        one, two = some(2)
        given = [one, changed(two, weight=3)]

        first = Counter(
            order(given, "affinity", wish=Wish(affinity_hash=n))[0] for n in range(1, 1001)
        )

        assert 700 < first[1] < 800

    @given(st.integers(1, 2**64 - 1), st.integers(0, 3))
    def test_moves_only_the_conversations_of_the_one_that_leaves(self, mark, leaver):
        given = some(4)
        wish = Wish(affinity_hash=mark)

        before = order(given, "affinity", wish=wish)
        after = order([c for c in given if c.index != leaver], "affinity", wish=wish)

        assert after == tuple(index for index in before if index != leaver)

    def test_does_not_depend_on_the_position(self):
        wish = Wish(affinity_hash=99)
        there = Candidate(0, "alpha", "m"), Candidate(1, "beta", "m")
        back = Candidate(0, "beta", "m"), Candidate(1, "alpha", "m")

        assert order(there, "affinity", wish=wish) != order(back, "affinity", wish=wish)

    def test_gives_way_when_its_place_has_more_than_its_share(self):
        wish = Wish(affinity_hash=99)
        home, *others = order(some(4), "affinity", wish=wish)
        busy = [changed(c, in_flight=9 if c.index == home else 3) for c in some(4)]

        assert order(busy, "affinity", wish=wish) == (*others, home)

    def test_is_least_busy_without_a_conversation(self):
        first, second = some(2)

        assert order([changed(first, in_flight=1), second], "affinity") == (1, 0)


class TestPreferences:
    def test_order_comes_before_the_policy(self):
        given = [changed(c, price=CHEAP) for c in some(3)]

        assert order(given, "lowest-cost", Preferences(order=("gamma", "beta"))) == (2, 1, 0)

    def test_a_name_may_carry_the_model(self):
        given = Candidate(0, "alpha", "m"), Candidate(1, "alpha", "n")

        assert order(given, preferences=Preferences(only=("alpha/n",))) == (1,)

    def test_only_leaves_the_others_out(self):
        assert order(some(3), preferences=Preferences(only=("beta",))) == (1,)

    def test_ignore_leaves_those_out(self):
        assert order(some(3), preferences=Preferences(ignore=("beta",))) == (0, 2)

    def test_names_are_compared_without_case(self):
        given = [Candidate(0, "Alpha", "m"), Candidate(1, "beta", "m")]

        assert order(given, preferences=Preferences(only=("alpha",))) == (0,)

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [("price", (2, 1, 0)), ("latency", (1, 2, 0)), ("throughput", (0, 2, 1))],
    )
    def test_sort_replaces_the_policy(self, sort, expected):
        one, two, three = some(3)
        given = [
            changed(one, price=DEAR, ttft_ewma_ms=900),
            changed(two, price=CHEAP, ttft_ewma_ms=1, in_flight=5),
            changed(three, price=Price(FREE, "USD", 0, 0), ttft_ewma_ms=100, in_flight=4),
        ]

        assert order(given, "ordered", Preferences(sort=sort), Wish(draws=(0.5, 0.9))) == expected

    def test_sorting_by_throughput_says_that_it_is_not_measured(self):
        found = texts(some(1), preferences=Preferences(sort="throughput"))

        assert found == ["0 calls; throughput itself is not measured"]

    def test_max_price_leaves_dearer_ones_out(self):
        first, second = some(2)
        given = [changed(first, price=DEAR), changed(second, price=CHEAP)]

        assert order(given, preferences=Preferences(max_prompt_micros=100_000)) == (1,)
        assert order(given, preferences=Preferences(max_completion_micros=400_000)) == (1,)

    def test_max_price_leaves_out_what_has_no_price(self):
        decision = decide(some(1), "ordered", Preferences(max_prompt_micros=1), Wish())

        assert decision.order == ()
        assert decision.reasons[0].text == "no price is known, and provider.max_price is set"

    def test_without_fallbacks_one_is_left(self):
        assert order(some(3), preferences=Preferences(allow_fallbacks=False)) == (0,)

    @pytest.mark.parametrize("wanted", [Preferences(zdr=True), Preferences(data_collection="deny")])
    def test_privacy_leaves_only_what_is_local(self, wanted):
        first, second = some(2)

        assert order([first, changed(second, is_local=True)], preferences=wanted) == (1,)

    def test_required_parameters_must_be_known_to_be_there(self):
        first, second = some(2)
        sighted = changed(second, capabilities=frozenset({"vision"}))
        wanted = Preferences(require_parameters=True)

        assert order(
            [first, sighted], preferences=wanted, wish=Wish(needs=frozenset({"vision"}))
        ) == (1,)


class TestPeakEwma:
    def test_goes_up_at_once(self):
        assert peak_ewma(100, 900, 0.0) == 900

    def test_comes_down_by_its_age(self):
        assert peak_ewma(1000, 0, 10.0) == pytest.approx(367.9, abs=0.1)

    def test_stays_where_it_was_when_no_time_has_passed(self):
        assert peak_ewma(1000, 10, 0.0) == 1000

    def test_takes_no_harm_from_a_clock_that_goes_back(self):
        assert peak_ewma(1000, 10, -5.0) == 1000

    @given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9))
    def test_lies_between_what_was_and_what_is(self, before, sample, elapsed):
        found = peak_ewma(before, sample, elapsed)

        assert sample * 0.999999 <= found <= max(before, sample) * 1.000001


class TestReadPreferences:
    def test_reads_every_member(self):
        raw = msgspec.Raw(
            b'{"order":["Groq","openai"],"only":["groq"],"ignore":["x/Y"],"sort":"price",'
            b'"max_price":{"prompt":0.15,"completion":"2"},"allow_fallbacks":false,'
            b'"require_parameters":true,"data_collection":"deny","zdr":true}'
        )

        assert read_preferences(raw) == Preferences(
            order=("groq", "openai"),
            only=("groq",),
            ignore=("x/y",),
            sort="price",
            max_prompt_micros=150_000,
            max_completion_micros=2_000_000,
            allow_fallbacks=False,
            require_parameters=True,
            data_collection="deny",
            zdr=True,
        )

    def test_takes_null_for_not_said(self):
        raw = msgspec.Raw(b'{"order":null,"sort":null,"max_price":null,"allow_fallbacks":null}')

        assert read_preferences(raw) == NO_PREFERENCES

    @pytest.mark.parametrize(
        ("text", "param"),
        [
            (b'{"quantizations":["fp8"]}', "provider.quantizations"),
            (b'{"order":"groq"}', "provider.order"),
            (b'{"order":[7]}', "provider.order"),
            (b'{"order":[""]}', "provider.order"),
            (b'{"sort":"speed"}', "provider.sort"),
            (b'{"max_price":{"prompt":"cheap"}}', "provider.max_price.prompt"),
            (b'{"max_price":{"prompt":-1}}', "provider.max_price.prompt"),
            (b'{"max_price":{"completion":"1e999999"}}', "provider.max_price.completion"),
            (b'{"max_price":{"completion":"NaN"}}', "provider.max_price.completion"),
            (b'{"max_price":{"image":1}}', "provider.max_price"),
            (b'{"zdr":1}', "provider.zdr"),
            (b'{"data_collection":"maybe"}', "provider.data_collection"),
            (b"[]", "provider"),
            (b"7", "provider"),
            (b"", "provider"),
            (b'{"order":["\xff"]}', "provider"),
        ],
    )
    def test_names_what_is_wrong(self, text, param):
        with pytest.raises(BadPreferences) as caught:
            read_preferences(msgspec.Raw(text))

        assert caught.value.extra["param"] == param
        assert f"`{param}" in str(caught.value)

    def test_names_several_that_are_unknown(self):
        with pytest.raises(BadPreferences, match=r"`provider\.a`, `provider\.b` cannot"):
            read_preferences(msgspec.Raw(b'{"b":1,"a":2}'))

    @given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(msgspec.json.encode))
    def test_refuses_what_is_no_object(self, text):
        with pytest.raises(BadPreferences):
            read_preferences(msgspec.Raw(text))

    @given(
        st.dictionaries(
            st.sampled_from(Preferences.__struct_fields__),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.text(),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=5,
            ),
        )
    )
    def test_fails_in_one_way_only(self, members):
        with suppress(BadPreferences):
            read_preferences(msgspec.Raw(msgspec.json.encode(members)))


class TestMicrosPerMillion:
    def test_rounds_down(self):
        assert micros_per_million(Decimal("0.1234567")) == 123_456

    def test_is_quick_with_a_tiny_number(self):
        assert micros_per_million(Decimal("1e-999999")) == 0
