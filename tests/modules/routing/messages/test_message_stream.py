"""Chunks of chat completions, translated to streams of the Messages API."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.messages.message_stream import MessagesFromChat
from tests.modules.routing.messages.golden import events_of, fed, golden

STREAMS = ("chat-text", "chat-tools", "chat-error")
DONE = b"data: [DONE]\n\n"


def translated(*chunks: bytes) -> list:
    return events_of(fed(MessagesFromChat("alias"), list(chunks)))


def said(finish_reason: str | None = None, **delta) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


def called(number: int | None, arguments: str = "", **more) -> bytes:
    call = {"function": {"arguments": arguments}, **more}
    return said(tool_calls=[call if number is None else {"index": number, **call}])


def begun(number: int | None, name: str, call_id: str, arguments: str = "") -> bytes:
    return called(number, id=call_id, function={"name": name, "arguments": arguments})


def blocks(events: list) -> list[dict]:
    return [data["content_block"] for name, data in events if name == "content_block_start"]


class TestFeed:
    @pytest.mark.parametrize("name", STREAMS)
    def test_translates_a_stream(self, name):
        assert translated(golden(f"{name}.sse")) == events_of(golden(f"{name}.as-messages.sse"))

    @pytest.mark.parametrize("name", STREAMS)
    def test_may_be_cut_between_any_two_bytes(self, name):
        given, expected = golden(f"{name}.sse"), golden(f"{name}.as-messages.sse")

        for at in range(len(given)):
            assert translated(given[:at], given[at:]) == events_of(expected)

    @pytest.mark.parametrize("name", STREAMS)
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_may_come_byte_by_byte(self, name, end):
        given = golden(f"{name}.sse").replace(b"\n", end)

        found = translated(*(given[at : at + 1] for at in range(len(given))))

        assert found == events_of(golden(f"{name}.as-messages.sse"))

    @pytest.mark.parametrize("name", ["chat-text", "chat-tools"])
    def test_has_no_end_where_its_upstream_is_cut(self, name):
        given = golden(f"{name}.sse")
        whole = translated(given)

        for at in range(len(given) - 1):
            found = translated(given[:at])
            assert found == whole[: len(found)]
            assert "message_stop" not in [kind for kind, _ in found]

    def test_waits_with_the_end_for_the_usage(self):
        translator = MessagesFromChat("alias")
        usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7}}\n\n'

        before = fed(translator, [said(content="x"), said("stop"), usage])
        after = translator.feed(DONE)

        assert b"message_delta" not in before
        assert events_of(after)[1][1]["usage"] == {"input_tokens": 7, "output_tokens": 0}

    def test_an_empty_answer_is_a_message(self):
        kinds = [kind for kind, _ in translated(DONE)]

        assert kinds == ["message_start", "message_delta", "message_stop"]

    def test_says_nothing_after_its_end(self):
        assert translated(DONE, said(content="more"), DONE) == translated(DONE)

    def test_a_refusal_is_said(self):
        events = translated(said(refusal="No."), DONE)

        assert events[2][1]["delta"] == {"type": "text_delta", "text": "No."}

    def test_reads_a_thought_under_either_name(self):
        events = translated(said(reasoning="hm"), said(reasoning_content="so"), DONE)

        thoughts = [data["delta"] for name, data in events if name == "content_block_delta"]
        assert [thought["thinking"] for thought in thoughts] == ["hm", "so"]

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            ({"message": "Why", "type": "server_error"}, "api_error"),
            ({"message": "Why", "type": "rate_limit_error"}, "rate_limit_error"),
            ({"message": "Why", "code": 429}, "rate_limit_error"),
            ({"message": "Why", "code": "stream_broken"}, "api_error"),
            ("Why", "api_error"),
        ],
    )
    def test_an_error_is_an_event_of_its_own(self, error, kind):
        events = translated(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")

        assert events == [
            (
                "error",
                {
                    "type": "error",
                    "error": {"type": kind, "message": "Why"},
                    "request_id": None,
                },
            )
        ]

    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense",
            b"[]",
            b"\xff",
            b'{"choices":7}',
            b'{"choices":[{"delta":{"content":7}}]}',
            b"[" * 100_000,
        ],
    )
    def test_refuses_what_is_no_chunk(self, data):
        with pytest.raises(UpstreamNonsense):
            MessagesFromChat("alias").feed(b"data: " + data + b"\n\n")

    @given(st.lists(st.integers(0, 1500)))
    def test_does_not_depend_on_the_chunks(self, places):
        given = golden("chat-tools.sse")
        cuts = [0, *sorted(places), len(given)]
        chunks = [given[a:b] for a, b in pairwise(cuts)]

        assert translated(*chunks) == events_of(golden("chat-tools.as-messages.sse"))


class TestCalls:
    def test_takes_whole_calls_that_are_not_numbered(self):
        events = translated(begun(None, "a", "1", "{}"), begun(None, "b", "2", "{}"), DONE)

        assert [(block["id"], block["name"]) for block in blocks(events)] == [
            ("1", "a"),
            ("2", "b"),
        ]

    def test_gives_an_id_where_the_server_has_none(self):
        events = translated(called(0, function={"name": "a"}), DONE)

        assert blocks(events)[0]["id"] == "call_c_0"

    def test_text_may_follow_a_call(self):
        events = translated(begun(0, "a", "1", "{}"), said(content="x"), DONE)

        assert [block["type"] for block in blocks(events)] == ["tool_use", "text"]

    def test_a_call_is_a_reason_even_where_the_server_does_not_say_so(self):
        events = translated(begun(0, "a", "1", "{}"), said("stop"), DONE)

        assert events[-2][1]["delta"]["stop_reason"] == "tool_use"

    def test_refuses_one_without_a_name(self):
        with pytest.raises(UpstreamNonsense, match="without naming it"):
            translated(called(0, "{}", id="1"))

    def test_refuses_to_go_on_with_one_that_a_client_may_have_run(self):
        calls = [begun(0, "a", "1", "{"), begun(1, "b", "2", "{}"), called(0, "}")]

        with pytest.raises(UpstreamNonsense, match="had ended"):
            translated(*calls)
