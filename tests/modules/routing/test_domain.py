"""Decisions of routing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.routing.domain import (
    TAIL_BYTES,
    BadEnvelope,
    Price,
    StreamTail,
    TokenDetails,
    Tokens,
    base_url,
    close_names,
    cost_nanos,
    kind_of,
    ollama_url,
    public_name,
    read_answer,
    read_envelope,
    with_model,
)

MINI = Price("v", "USD", 150_000, 600_000, 75_000)


class TestReadEnvelope:
    def test_takes_model_and_stream_and_ignores_the_rest(self):
        envelope = read_envelope(b'{"x":[{"model":"no"}],"model":"m","stream":true,"n":1}')

        assert (envelope.model, envelope.stream) == ("m", True)

    def test_accepts_a_null_stream(self):
        assert not read_envelope(b'{"model":"m","stream":null}').stream

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"model"',
            b"{}",
            b'{"model":""}',
            b'{"model":7}',
            b'{"model":null}',
            b'{"model":"m","stream":"yes"}',
            b'{"model":"m"} trailing',
            b'{"model":"\xff"}',
            b'{"model":"m","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        ],
    )
    def test_refuses_what_no_client_sends(self, body):
        with pytest.raises(BadEnvelope):
            read_envelope(body)


class TestWithModel:
    def test_touches_no_other_byte(self):
        body = b'{ "model" : "alias" ,\n "messages":[{"role":"user","content":"\\u00e9 \\n"}] }'

        assert with_model(body, "real") == body.replace(b'"alias"', b'"real"')

    def test_is_not_fooled_by_a_nested_model_that_stands_first(self):
        body = b'{"metadata":{"model":"alias"},"model":"alias","x":1.10}'

        changed = msgspec.json.decode(with_model(body, "real"))

        assert changed == {"metadata": {"model": "alias"}, "model": "real", "x": 1.1}

    @given(st.text(min_size=1), st.dictionaries(st.text(), st.text(), max_size=4), st.text())
    def test_sets_the_model_and_keeps_everything_else(self, model, members, new):
        body = msgspec.json.encode({**members, "model": model})
        expected = {**members, "model": new}

        assert msgspec.json.decode(with_model(body, new)) == expected


class TestCostNanos:
    def test_prices_input_cached_and_output_apart(self):
        tokens = Tokens(1000, 100, TokenDetails(cached_tokens=400))

        assert cost_nanos(tokens, MINI) == 600 * 150 + 400 * 75 + 100 * 600

    def test_rounds_half_up_to_a_billionth(self):
        assert cost_nanos(Tokens(1, 0), Price("v", "USD", 1_500, 0)) == 2
        assert cost_nanos(Tokens(1, 0), Price("v", "USD", 1_499, 0)) == 1

    def test_takes_the_input_price_where_cached_has_none(self):
        tokens = Tokens(10, 0, TokenDetails(cached_tokens=10))

        assert cost_nanos(tokens, Price("v", "USD", 1_000_000, 0)) == 10_000

    def test_never_counts_more_cached_tokens_than_there_are(self):
        tokens = Tokens(10, 0, TokenDetails(cached_tokens=99))

        assert cost_nanos(tokens, MINI) == 10 * 75

    def test_is_unknown_without_tokens_or_price(self):
        assert cost_nanos(None, MINI) is None
        assert cost_nanos(Tokens(1, 1), None) is None
        assert cost_nanos(Tokens(None, 1), MINI) is None


class TestStreamTail:
    STREAM = (
        b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\r\n\r\n'
        b"data: [DONE]\n\n"
    )

    @pytest.mark.parametrize("size", [1, 7, 64, 10_000])
    def test_finds_usage_and_the_end_however_the_bytes_are_cut(self, size):
        tail = StreamTail()

        ends = [tail.feed(self.STREAM[i : i + size]) for i in range(0, len(self.STREAM), size)]

        assert ends.count(True) == 1
        usage = tail.read().usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (3, 2)

    def test_finds_an_error_inside_the_stream(self):
        tail = StreamTail()

        tail.feed(b'data: {"error":{"message":"boom"}}\n\ndata: [DONE]\n\n')

        assert tail.read().has_error
        assert tail.read().usage is None

    def test_has_no_usage_where_none_was_sent(self):
        tail = StreamTail()

        tail.feed(b'data: {"choices":[]}\n\n: comment\n\ndata: not json\n\ndata: [DONE]\n\n')

        assert tail.read().usage is None

    def test_forgets_all_but_the_end(self):
        tail = StreamTail()

        for _ in range(100):
            tail.feed(b"x" * 10_000)

        assert sum(map(len, tail._chunks)) <= TAIL_BYTES + 10_000


class TestReadAnswer:
    def test_reads_usage_with_its_details(self):
        part = read_answer(
            b'{"id":"x","usage":{"prompt_tokens":5,"completion_tokens":7,'
            b'"prompt_tokens_details":{"cached_tokens":4},'
            b'"completion_tokens_details":{"reasoning_tokens":6}}}'
        )

        assert part is not None
        assert part.usage is not None
        assert (part.usage.cached, part.usage.reasoning) == (4, 6)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"usage":', b"[" * 20_000])
    def test_knows_what_is_no_answer(self, body):
        assert read_answer(body) is None


class TestNames:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("http://host", "http://host/v1"),
            ("http://host/", "http://host/v1"),
            ("http://host:1/v1/", "http://host:1/v1"),
            ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ],
    )
    def test_a_bare_server_gets_v1(self, given, expected):
        assert base_url(given) == expected

    @pytest.mark.parametrize("given", ["host", "ftp://host", "http://", ""])
    def test_what_is_no_url_is_refused(self, given):
        with pytest.raises(ValueError, match="URL"):
            base_url(given)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("127.0.0.1:1234", "http://127.0.0.1:1234"),
            ("gpu", "http://gpu:11434"),
            ("https://gpu/", "https://gpu:11434"),
            ("http://localhost:11434", "http://localhost:11434"),
        ],
    )
    def test_ollamas_variable_may_lack_scheme_and_port(self, given, expected):
        assert ollama_url(given) == expected

    def test_a_taken_name_and_a_local_one_say_where_they_run(self):
        assert public_name("groq", "llama", {"llama"}) == "groq/llama"
        assert public_name("groq", "llama", set()) == "llama"
        assert public_name("dev", "echo", set()) == "dev/echo"

    def test_embedding_models_are_told_by_their_names(self):
        assert kind_of("text-embedding-3-small") == "embedding"
        assert kind_of("gpt-4o-mini") == "chat"

    def test_a_misspelt_name_finds_its_neighbours(self):
        names = ["gpt-4o", "gpt-4o-mini", "groq/llama"]

        assert close_names("GPT-4o", names) == ["gpt-4o", "gpt-4o-mini"]
        assert close_names("zzz", names) == []
