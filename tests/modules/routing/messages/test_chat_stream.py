"""Streams of the Messages API, translated to chunks of chat completions."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.messages.chat_stream import (
    THOUGHTS_LIMIT_CHARS,
    ChatFromMessages,
)
from tests.modules.routing.messages.golden import events_of, fed, golden

CREATED_S = 1_700_000_000
STREAMS = ("message-text", "message-tools", "message-overloaded")
START = {"type": "message_start", "message": {"id": "m", "model": "c"}}
STOP = {"type": "message_stop"}


def stream(*events: dict) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def translated(*chunks: bytes) -> list:
    return events_of(fed(ChatFromMessages(CREATED_S), list(chunks)))


def deltas(*events: dict) -> list[dict]:
    """What the chunks of these events add, less the first and those without a choice."""
    data = [data for _, data in translated(stream(START, *events))][1:]
    choices = [choice for chunk in data if "choices" in chunk for choice in chunk["choices"]]
    return [choice["delta"] for choice in choices]


def started(index: int, **block) -> dict:
    return {"type": "content_block_start", "index": index, "content_block": block}


def added(index: int, **delta) -> dict:
    return {"type": "content_block_delta", "index": index, "delta": delta}


class TestFeed:
    @pytest.mark.parametrize("name", STREAMS)
    def test_translates_a_stream(self, name):
        assert translated(golden(f"{name}.sse")) == events_of(golden(f"{name}.as-chat.sse"))

    @pytest.mark.parametrize("name", STREAMS)
    def test_may_be_cut_between_any_two_bytes(self, name):
        given, expected = golden(f"{name}.sse"), golden(f"{name}.as-chat.sse")

        for at in range(len(given)):
            assert translated(given[:at], given[at:]) == events_of(expected)

    @pytest.mark.parametrize("name", STREAMS)
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_may_come_byte_by_byte(self, name, end):
        given = golden(f"{name}.sse").replace(b"\n", end)

        found = translated(*(given[at : at + 1] for at in range(len(given))))

        assert found == events_of(golden(f"{name}.as-chat.sse"))

    @pytest.mark.parametrize("name", ["message-text", "message-tools"])
    def test_has_no_end_where_its_upstream_is_cut(self, name):
        given = golden(f"{name}.sse")
        whole = translated(given)

        for at in range(len(given) - 1):
            found = translated(given[:at])
            assert found == whole[: len(found)]
            assert ("", "[DONE]") not in found

    def test_says_nothing_after_its_end(self):
        found = translated(stream(START, STOP, START, added(0, type="text_delta", text="more")))

        assert found[-1] == ("", "[DONE]")
        assert len(found) == 4

    def test_replaces_the_counts_of_the_beginning_by_those_of_the_end(self):
        begun = {"usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}}
        start = {"type": "message_start", "message": {**START["message"], **begun}}
        early = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 20}}
        late = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 30}}

        usage = translated(stream(start, early, late, STOP))[-2][1]["usage"]

        assert usage == {
            "prompt_tokens": 15,
            "completion_tokens": 30,
            "total_tokens": 45,
            "prompt_tokens_details": {"cached_tokens": 5},
        }

    def test_no_usage_is_not_a_usage_of_nothing(self):
        chunk = translated(stream(START, STOP))[-2][1]

        assert (chunk["choices"], chunk["usage"]) == ([], None)

    def test_tells_why_the_model_refused(self):
        details = {"type": "refusal", "category": "bio", "explanation": "Not that."}
        delta = {"stop_reason": "refusal", "stop_details": details}

        found = translated(stream(START, {"type": "message_delta", "delta": delta}, STOP))

        assert found[1][1]["choices"] == [
            {"index": 0, "delta": {"refusal": "Not that."}, "finish_reason": "content_filter"}
        ]

    def test_takes_text_that_comes_with_the_beginning_of_its_block(self):
        assert deltas(started(0, type="text", text="a")) == [{"content": "a"}]

    def test_an_empty_input_at_the_beginning_of_a_call_is_none(self):
        data = b'data: {"type":"content_block_start","index":0,"content_block":'
        data += b'{"type":"tool_use","id":"t","name":"f","input":{ }}}\n\n'

        call = translated(data)[0][1]["choices"][0]["delta"]["tool_calls"][0]

        assert call["function"]["arguments"] == ""

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "a_new_one", "index": 0},
            {"type": "content_block_stop", "index": 9},
            started(0, type="web_search_tool_result", content={"type": "error"}),
            started(0, type="server_tool_use", id="s", name="web_search", input={}),
            added(5, type="input_json_delta", partial_json="{}"),
            added(5, type="signature_delta", signature="s"),
            added(0, type="a_new_delta", citation={"type": "page"}),
            {"type": "message_delta"},
        ],
    )
    def test_passes_over_what_has_no_counterpart(self, event):
        assert deltas(event) == []

    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense",
            b"[]",
            b"\xff",
            b'{"type":7}',
            b'{"type":"content_block_delta","delta":{"text":7}}',
            b'{"type":"content_block_start","content_block":{"type":"tool_use"}}',
            b"[" * 100_000,
        ],
    )
    def test_refuses_what_is_no_event(self, data):
        with pytest.raises(UpstreamNonsense):
            ChatFromMessages().feed(b"data: " + data + b"\n\n")

    @given(st.lists(st.integers(0, 4000)))
    def test_does_not_depend_on_the_chunks(self, places):
        given = golden("message-tools.sse")
        cuts = [0, *sorted(places), len(given)]
        chunks = [given[a:b] for a, b in pairwise(cuts)]

        assert translated(*chunks) == events_of(golden("message-tools.as-chat.sse"))


class TestThoughts:
    def test_one_that_nobody_signed_is_not_handed_back(self):
        thought = added(0, type="thinking_delta", thinking="hm")

        found = deltas(started(0, type="thinking", thinking=""), thought, STOP)

        assert found == [{"reasoning_content": "hm"}, {}]

    def test_those_beyond_the_limit_are_told_and_not_handed_back(self):
        text = "x" * (THOUGHTS_LIMIT_CHARS // 2 + 1)
        thought = added(0, type="thinking_delta", thinking=text)
        signature = added(0, type="signature_delta", signature="s")

        found = deltas(started(0, type="thinking"), thought, thought, signature, STOP)

        assert found == [{"reasoning_content": text}, {"reasoning_content": text}, {}]

    def test_one_whose_text_is_kept_from_us_is_handed_back(self):
        signature = added(0, type="signature_delta", signature="s")

        found = deltas(started(0, type="thinking", thinking="", signature=""), signature, STOP)

        assert found[0]["reasoning_details"] == [
            {
                "type": "reasoning.text",
                "text": "",
                "signature": "s",
                "format": "anthropic-claude-v1",
                "index": 0,
            }
        ]
