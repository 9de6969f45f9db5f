"""What kind of task a request is, and which model suits it."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.errors import NotFound
from app.modules.routing.domain.cards import Card
from app.modules.routing.domain.categories import (
    BadStrategy,
    ModelCard,
    NoSuitableModel,
    classify,
    pick,
    read_max_cost,
    read_strategy,
    route_headers,
)
from app.modules.routing.domain.prices import FREE, Price

GRATIS = Price(FREE, "USD", 0, 0)
CHEAP = Price("v", "USD", 100_000, 400_000)
FAIR = Price("v", "USD", 500_000, 1_500_000)
DEAR = Price("v", "USD", 3_000_000, 15_000_000)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def body(*said, **more) -> bytes:
    messages = [{"role": "user", "content": content} for content in said]
    return msgspec.json.encode({"model": "auto", "messages": messages, **more})


def model(name: str, price: Price | None = None, quality="good", **more) -> ModelCard:
    about = {k: more.pop(k) for k in ("capabilities", "context_tokens") if k in more}
    return ModelCard(name, "groq", price, Card(quality, **about), **more)


def picked(*cards: ModelCard, category="general_chat", strategy="cost-optimized", most=None):
    return pick(category, strategy, cards, most)[0].name


class TestClassify:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Hi", "simple_chat"),
            ("hello there!", "simple_chat"),
            ("Good morning, Anna.", "simple_chat"),
            ("Hi, please translate 'cat' into French", "translation"),
            ("Write a function that reverses a list", "coding"),
            ("Why?\n```\nx = 1\n```", "coding"),
            ("import os\nos.getcwd()", "coding"),
            ("What is 12 * 7?", "math"),
            ("Solve for x and show your work", "math"),
            ("Translate this into German: house", "translation"),
            ("How do you say thanks in Greek?", "translation"),
            ("Summarise the meeting", "summarization"),
            ("tl;dr please", "summarization"),
            ("Tell me a story of a fox", "creative_writing"),
            ("Compare trains with planes", "analysis"),
            ("What is the capital of Peru?", "general_chat"),
            ("", "general_chat"),
        ],
    )
    def test_reads_the_last_message(self, text, expected):
        assert classify(body("Write a poem", text)) == expected

    def test_asks_for_code_before_math(self):
        assert classify(body("Write code that solves an equation")) == "coding"

    def test_puts_tools_first(self):
        tools = [{"type": "function", "function": {"name": "f"}}]

        assert classify(body([IMAGE], tools=tools)) == "function_calling"

    def test_does_not_take_an_empty_list_for_tools(self):
        assert classify(body("Hi", tools=[])) == "simple_chat"

    def test_puts_an_image_in_any_message_before_the_text(self):
        assert classify(body([IMAGE], "Write a poem")) == "vision"

    def test_puts_length_before_the_last_message(self):
        assert classify(body("x" * 49_999, "hi")) == "long_context"

    def test_counts_50_000_characters_as_not_long(self):
        assert classify(body("é" * 49_998, "hi")) == "simple_chat"

    def test_does_not_count_a_file_as_text(self):
        assert classify(body([{"type": "file", "file": "x" * 60_000}], "hi")) == "simple_chat"

    def test_reads_the_text_parts(self):
        parts = [{"type": "text", "text": "Summarize"}, {"type": "text", "text": "this"}]

        assert classify(body(parts)) == "summarization"

    def test_reads_no_further_than_the_beginning(self):
        assert classify(body("la " * 1_000 + "summarize")) == "general_chat"

    def test_looks_past_what_the_model_said(self):
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A poem?"}]

        assert classify(msgspec.json.encode({"messages": said})) == "simple_chat"

    @pytest.mark.parametrize(
        "text", [b"", b"[]", b"{", b'{"messages":7}', b"\xff", b"[" * 5_000, b'{"messages":[7]}']
    )
    def test_takes_what_it_cannot_read_for_general(self, text):
        assert classify(text) == "general_chat"

    @given(st.text())
    def test_has_a_word_for_every_text(self, text):
        assert classify(body(text))


class TestPick:
    def test_takes_the_default_of_the_task(self):
        coder = model("coder", DEAR, tasks=frozenset({"coding"}))

        assert picked(model("free", GRATIS), coder, category="coding") == "coder"

    def test_takes_the_best_free_model(self):
        free = model("good", GRATIS), model("better", GRATIS, "great")

        assert picked(model("best", DEAR, "excellent"), *free) == "better"

    def test_takes_the_cheapest_of_the_great_ones(self):
        cards = model("a", CHEAP), model("b", DEAR, "excellent"), model("c", FAIR, "great")

        assert picked(*cards) == "c"

    def test_takes_the_cheapest_when_none_is_great(self):
        assert picked(model("a", FAIR), model("b", CHEAP)) == "b"

    def test_never_takes_no_price_for_free(self):
        assert picked(model("a", None, "excellent"), model("b", DEAR)) == "b"

    def test_takes_quality_first_whatever_it_costs(self):
        cards = model("a", GRATIS, "great"), model("b", DEAR, "excellent")

        assert picked(*cards, strategy="quality-first") == "b"

    def test_takes_the_cheaper_of_equally_good_ones(self):
        cards = model("a", None, "great"), model("b", DEAR, "great"), model("c", FAIR, "great")

        assert picked(*cards, strategy="quality-first") == "c"

    def test_stays_local_when_told_so(self):
        cards = model("far", CHEAP, "excellent"), model("near", GRATIS, is_local=True)

        assert picked(*cards, strategy="local-only") == "near"

    def test_never_goes_remote_when_told_to_stay_local(self):
        with pytest.raises(NoSuitableModel, match="No local model suits general_chat; start one"):
            picked(model("far", GRATIS), strategy="local-only")

    def test_takes_the_named_one_as_it_is(self):
        blind = model("blind", DEAR, capabilities=frozenset({"tools"}))

        assert picked(blind, category="vision", strategy="pass-through") == "blind"

    @pytest.mark.parametrize("strategy", ["cost-optimized", "quality-first", "pass-through"])
    def test_keeps_to_the_highest_cost(self, strategy):
        with pytest.raises(NoSuitableModel, match="No model within X-Max-Cost"):
            picked(model("a", FAIR), model("b"), strategy=strategy, most=499_999)

    def test_lets_a_price_at_the_limit_pass(self):
        assert picked(model("a", FAIR), most=500_000) == "a"

    @pytest.mark.parametrize(
        ("category", "missing"),
        [
            ("vision", {"capabilities": frozenset({"tools"})}),
            ("function_calling", {"capabilities": frozenset({"vision"})}),
            ("long_context", {"context_tokens": 8_192}),
        ],
    )
    def test_leaves_out_what_cannot_do_the_task(self, category, missing):
        unable = model("unable", GRATIS, "excellent", **missing)

        assert picked(unable, model("able", DEAR), category=category) == "able"

    def test_says_why(self):
        assert pick("math", "cost-optimized", [model("a", GRATIS)])[1] == "best free model for math"

    def test_is_a_thing_not_found_when_there_is_no_model(self):
        with pytest.raises(NotFound):
            picked()


class TestReadStrategy:
    def test_reads_a_name_in_any_case(self):
        assert read_strategy(" Local-Only ") == "local-only"

    def test_is_nothing_where_nothing_is_said(self):
        assert read_strategy("") is None

    def test_names_those_there_are(self):
        with pytest.raises(BadStrategy, match="one of cost-optimized, quality-first"):
            read_strategy("fastest")


class TestReadMaxCost:
    def test_reads_a_price_in_millionths(self):
        assert read_max_cost(" 0.15 ") == 150_000

    def test_is_nothing_where_nothing_is_said(self):
        assert read_max_cost("") is None

    @pytest.mark.parametrize("text", ["cheap", "-1", "NaN", "Infinity", "1e999999999", "1,5"])
    def test_refuses_what_is_no_price(self, text):
        with pytest.raises(BadStrategy) as caught:
            read_max_cost(text)

        assert caught.value.extra["param"] == "X-Max-Cost"

    @given(st.text())
    def test_fails_in_one_way_only(self, text):
        with suppress(BadStrategy):
            read_max_cost(text)


class TestRouteHeaders:
    def test_tells_all_that_is_known(self):
        found = route_headers(
            model="llama", provider="groq", reason="best", price=CHEAP, category="math"
        )

        assert dict(found) == {
            "X-Route-Model": "llama",
            "X-Route-Provider": "groq",
            "X-Route-Reason": "best",
            "X-Classification": "math",
            "X-Estimated-Cost-Per-1M": "0.1",
        }

    def test_has_no_cost_without_a_price(self):
        found = route_headers(model="llama", provider="groq", reason="best", price=None)

        assert [name for name, _ in found] == [
            "X-Route-Model",
            "X-Route-Provider",
            "X-Route-Reason",
        ]

    def test_writes_a_free_model_as_0(self):
        found = route_headers(model="m", provider="p", reason="r", price=GRATIS)

        assert dict(found)["X-Estimated-Cost-Per-1M"] == "0"

    @given(st.text(), st.text())
    def test_lets_no_name_break_out_of_its_header(self, name, reason):
        found = route_headers(model=name, provider=name, reason=reason, price=None)

        assert all(value.isascii() and value.isprintable() for _, value in found)
