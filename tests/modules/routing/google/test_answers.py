"""Whole answers and errors of the Gemini API, as OpenAI has them."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from app.modules.routing.domain.answers import Tokens, read_answer
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.google.answers import chat_answer, chat_error
from app.modules.routing.domain.google.request import generate_request
from tests.modules.routing.google.golden import CREATED_S, cases, read

GOOD = [
    case
    for case in cases("answers", ".google.json")
    if json.loads(read("answers", f"{case}.chat.json"))["status"] == 200
]
counts = st.integers(0, 2**53) | st.none()
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(),
        "thought": st.booleans(),
        "thoughtSignature": st.text(),
        "functionCall": st.fixed_dictionaries({}, optional={"name": st.text(), "args": anything}),
        "inlineData": st.fixed_dictionaries({}, optional={"data": st.text()}),
    },
)
candidates = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 3) | st.integers(),
        "content": st.fixed_dictionaries({"parts": st.lists(parts | anything, max_size=3)}),
        "finishReason": st.sampled_from(["STOP", "SAFETY", "MALFORMED_FUNCTION_CALL", "NEW"]),
        "logprobsResult": anything,
    },
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "candidates": st.lists(candidates, max_size=2),
        "promptFeedback": anything,
        "usageMetadata": st.dictionaries(
            st.sampled_from(["promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"]),
            st.integers(),
        ),
        "responseId": st.text(),
        "error": anything,
    },
)


def answered(case: str):
    return chat_answer(read("answers", f"{case}.google.json"), "gemini-test", CREATED_S)


def whole(**candidate: Any) -> bytes:
    return json.dumps({"candidates": [candidate], "responseId": "r"}).encode()


class TestChatAnswer:
    @pytest.mark.parametrize("case", cases("answers", ".google.json"))
    def test_is_as_written(self, case):
        told = answered(case)

        expected = json.loads(read("answers", f"{case}.chat.json"))
        assert {"status": told.status, "body": json.loads(told.body)} == expected

    @pytest.mark.parametrize("case", GOOD)
    def test_is_what_openais_client_expects(self, case):
        told = answered(case)

        assert ChatCompletion.model_validate_json(told.body).model == "gemini-test"

    @pytest.mark.parametrize(
        ("case", "tokens"),
        [
            ("plain", Tokens(4, 5, 0, None, 0, 0, 0)),
            ("thoughts_and_cache", Tokens(1000, 302, 900, None, 300, 0, 0)),
            ("audio", Tokens(118, 3, 40, None, 0, 60, 1)),
            ("blocked_prompt", Tokens(12, 0, 0, None, 0, 0, 0)),
            ("malformed_call", Tokens(12, 3, 0, None, 0, 0, 0)),
            ("no_counts", None),
        ],
    )
    def test_tells_the_meter_what_google_counted(self, case, tokens):
        part = read_answer(answered(case).body)

        assert part is not None
        assert part.tokens == tokens

    @pytest.mark.parametrize(
        ("reason", "expected"),
        [
            ("STOP", "stop"),
            ("MAX_TOKENS", "length"),
            ("SAFETY", "content_filter"),
            ("RECITATION", "content_filter"),
            ("BLOCKLIST", "content_filter"),
            ("PROHIBITED_CONTENT", "content_filter"),
            ("SPII", "content_filter"),
            ("LANGUAGE", "content_filter"),
            ("IMAGE_SAFETY", "content_filter"),
            ("OTHER", "content_filter"),
            ("A_WORD_YET_TO_COME", "content_filter"),
        ],
    )
    def test_says_why_the_model_stopped(self, reason, expected):
        told = chat_answer(whole(content={"parts": [{"text": "x"}]}, finishReason=reason), "m")

        assert json.loads(told.body)["choices"][0]["finish_reason"] == expected

    @pytest.mark.parametrize(
        "reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"]
    )
    def test_shows_no_failure_of_the_model_as_success(self, reason):
        told = chat_answer(whole(finishReason=reason), "m")

        assert told.status == 502
        assert json.loads(told.body)["error"]["code"] == reason.lower()

    def test_gives_back_what_gemini_wants_to_see_again(self):
        said = json.loads(answered("parallel_calls").body)["choices"][0]["message"]
        history = [{"role": "user", "content": "?"}, said]
        body = json.dumps({"model": "gemini-3-pro", "messages": history}).encode()

        turn = json.loads(generate_request(body))["contents"][1]["parts"]

        assert [part.get("thoughtSignature") for part in turn] == ["Zmlyc3Q=", None]
        assert [part["functionCall"]["name"] for part in turn] == ["weather", "now"]
        assert turn[0]["functionCall"]["args"] == {"city": "Rome", "days": [1, 2]}
        assert turn[1]["functionCall"]["id"] == "own-id"

    def test_names_an_answer_without_an_id_by_its_text(self):
        one, same, other = (
            json.loads(
                chat_answer(
                    b'{"candidates":[{"content":{"parts":[{"text":"%s"}]}}]}' % text, "m"
                ).body
            )
            for text in (b"a", b"a", b"b")
        )

        assert one["id"] == same["id"] != other["id"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[]",
            b"\xff",
            b"[" * 100_000,
            b'{"candidates":7}',
            b'{"candidates":[{"index":-1}]}',
            b'{"usageMetadata":{"promptTokenCount":99999999999999999999}}',
        ],
    )
    def test_knows_what_is_no_answer(self, body):
        with pytest.raises(UpstreamNonsense):
            chat_answer(body, "m")

    @given(answers | anything)
    def test_fails_in_one_way_only(self, answer):
        with suppress(UpstreamNonsense):
            json.loads(chat_answer(json.dumps(answer).encode(), "m").body)

    @given(counts, counts, counts)
    def test_loses_no_token(self, prompt, candidates, thoughts):
        told = {"promptTokenCount": prompt, "candidatesTokenCount": candidates}
        told |= {"thoughtsTokenCount": thoughts}
        given = {name: count for name, count in told.items() if count is not None}
        body = json.dumps({"candidates": [{}], "usageMetadata": given}).encode()

        part = read_answer(chat_answer(body, "m").body)

        assert part is not None
        if prompt is None:
            assert part.tokens is None
        else:
            assert part.tokens is not None
            assert part.tokens.input == prompt
            assert part.tokens.output == (candidates or 0) + (thoughts or 0)


class TestChatError:
    @pytest.mark.parametrize("case", cases("errors", ".google.json"))
    def test_is_as_written(self, case):
        told = chat_error(int(case[:3]), read("errors", f"{case}.google.json"))

        found = {"status": told.status, "retry_after": told.retry_after}
        expected = json.loads(read("errors", f"{case}.chat.json"))
        assert found | {"body": json.loads(told.body)} == expected

    @pytest.mark.parametrize(
        ("delay", "expected"),
        [
            ("34s", "34"),
            ("34.000s", "34"),
            ("34.001s", "35"),
            ("0.5s", "1"),
            ("soon", ""),
            ("-1s", ""),
        ],
    )
    def test_rounds_the_wait_up(self, delay, expected):
        body = {"error": {"code": 429, "details": [{"retryDelay": delay}]}}

        assert chat_error(429, json.dumps(body).encode()).retry_after == expected

    def test_shows_nobody_a_key(self):
        told = chat_error(403, read("errors", "403_key_in_message.google.json"))

        assert b"AIza" not in told.body

    def test_keeps_a_message_short(self):
        body = json.dumps({"error": {"message": "x" * 100_000}}).encode()

        assert len(chat_error(500, body).body) < 3_000

    @given(st.integers(300, 599), st.binary() | anything.map(lambda v: json.dumps(v).encode()))
    def test_always_has_openais_form(self, status, body):
        told = chat_error(status, body)

        assert json.loads(told.body)["error"].keys() == {"message", "type", "param", "code"}
