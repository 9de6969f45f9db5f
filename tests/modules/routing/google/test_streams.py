"""Streams of the Gemini API, as chat completion chunks."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from app.modules.routing.domain.answers import Tokens
from app.modules.routing.domain.google.streams import ChatFromGoogle
from app.modules.routing.domain.streams import StreamReader
from tests.modules.routing.google.golden import CREATED_S, cases, read

CASES = cases("streams", ".google.sse")
ENDLESS = {"blocked_prompt", "cut_off", "error_in_the_middle", "malformed_call", "nonsense"}


def translated(pieces: list[bytes]) -> bytes:
    translator = ChatFromGoogle("gemini-test", CREATED_S)
    events = [translator.feed(piece) for piece in pieces]
    return b"".join(events) + translator.finish()


def source(case: str) -> bytes:
    return read("streams", f"{case}.google.sse")


def payloads(stream: bytes) -> list[dict[str, Any]]:
    events = stream.decode().split("\n\n")
    return [json.loads(e.removeprefix("data: ")) for e in events if e and "[DONE]" not in e]


def stream_of(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)


class TestChatFromGoogle:
    @pytest.mark.parametrize("case", CASES)
    def test_is_as_written(self, case):
        assert translated([source(case)]) == read("streams", f"{case}.chat.sse")

    @pytest.mark.parametrize("case", CASES)
    def test_is_the_same_however_it_is_cut(self, case):
        stream = source(case)
        expected = translated([stream])

        for cut in range(len(stream) + 1):
            assert translated([stream[:cut], stream[cut:]]) == expected
        assert translated([stream[at : at + 1] for at in range(len(stream))]) == expected

    @pytest.mark.parametrize("case", CASES)
    def test_is_the_same_with_other_line_ends(self, case):
        stream = source(case).replace(b"\r\n", b"\n")

        assert translated([stream.replace(b"\n", b"\r\n")]) == translated([stream])

    @pytest.mark.parametrize("case", CASES)
    def test_is_what_openais_client_expects(self, case):
        for payload in payloads(translated([source(case)])):
            if "error" not in payload:
                assert ChatCompletionChunk.model_validate(payload).model == "gemini-test"

    @pytest.mark.parametrize("case", CASES)
    def test_is_done_only_when_every_candidate_has_finished(self, case):
        ends = translated([source(case)]).endswith(b"data: [DONE]\n\n")

        assert ends == (case not in ENDLESS)

    @pytest.mark.parametrize(
        ("case", "tokens"),
        [
            ("plain", Tokens(4, 6, 0, None, 0, 0, 0)),
            ("thoughts_and_calls", Tokens(60, 39, 32, None, 25, 0, 0)),
            ("error_in_the_middle", Tokens(5, 1, 0, None, 0, 0, 0)),
            ("blocked_prompt", Tokens(12, 0, 0, None, 0, 0, 0)),
            ("cut_off", Tokens(5, 1, 0, None, 0, 0, 0)),
            ("no_counts", None),
        ],
    )
    def test_tells_the_meter_what_google_counted_last(self, case, tokens):
        reader = StreamReader("chat/completions")

        reader.feed(translated([source(case)]))

        assert reader.tokens == tokens

    @pytest.mark.parametrize("case", ["blocked_prompt", "error_in_the_middle", "malformed_call"])
    def test_hands_an_error_on_even_where_the_usage_is_kept_from_the_caller(self, case):
        reader = StreamReader("chat/completions", strips_usage=True)

        passed = reader.feed(translated([source(case)]))

        assert reader.error
        assert b'"error"' in passed

    @pytest.mark.parametrize("cut", [20, 40, 60])
    def test_takes_an_event_that_breaks_off_for_a_failure(self, cut):
        found = payloads(translated([source("plain")[:cut]]))

        assert found[-1]["error"]["code"] == 502

    def test_says_nothing_of_a_stream_that_says_nothing(self):
        assert translated([b": ping\n\n"]) == b""

    def test_says_nothing_after_an_error(self):
        translator = ChatFromGoogle("m")
        translator.feed(stream_of({"error": {"code": 500, "message": "x"}}))

        assert translator.feed(stream_of({"candidates": [{"finishReason": "STOP"}]})) == b""
        assert translator.finish() == b""

    def test_finishes_a_candidate_once(self):
        last = {"candidates": [{"finishReason": "STOP"}]}

        found = payloads(translated([stream_of(last, last)]))

        assert [c["choices"][0]["finish_reason"] for c in found] == [None, "stop"]

    def test_takes_no_more_candidates_than_can_be_asked_for(self):
        many = {"candidates": [{"index": index} for index in range(129)]}

        assert payloads(translated([stream_of(many)]))[-1]["error"]["code"] == 502

    @given(st.lists(st.text(min_size=1), min_size=1), st.integers(1, 50))
    def test_passes_every_text_whole(self, texts, size):
        events = [{"candidates": [{"content": {"parts": [{"text": text}]}}]} for text in texts]
        stream = stream_of(*events, {"candidates": [{"finishReason": "STOP"}]})

        found = payloads(translated([stream[i : i + size] for i in range(0, len(stream), size)]))

        said = [chunk["choices"][0]["delta"].get("content", "") for chunk in found]
        assert "".join(said) == "".join(texts)

    @given(st.lists(st.binary(max_size=200) | st.sampled_from([b"data: ", b"\n\n", b"{}", b"\r"])))
    def test_never_fails(self, pieces):
        assert translated(pieces).count(b"[DONE]") == 0
