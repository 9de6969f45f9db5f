"""Whole answers, translated both ways."""

import json

import pytest

from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.messages.from_chat import message_answer, message_error
from app.modules.routing.domain.messages.from_messages import chat_answer, chat_error
from tests.modules.routing.messages.golden import golden, value_of

CREATED_S = 1_700_000_000
NONSENSE = (b"", b"<html>", b"[]", b"7", b"\xff", b'{"content":7}', b"[" * 100_000)


def message(**more) -> bytes:
    return json.dumps({"id": "m", "type": "message", "model": "c", "content": [], **more}).encode()


def completion(finish_reason: str = "stop", **said) -> bytes:
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **said}}
    return json.dumps({"id": "c", "choices": [choice]}).encode()


def called(arguments: str) -> dict:
    return {"id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}


class TestChatAnswer:
    @pytest.mark.parametrize("name", ["message-text", "message-tools"])
    def test_translates_a_message(self, name):
        found = json.loads(chat_answer(golden(f"{name}.json"), CREATED_S))

        assert found == value_of(f"{name}.as-chat.json")

    @pytest.mark.parametrize(
        ("reason", "expected"),
        [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("pause_turn", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("tool_use", "tool_calls"),
            ("refusal", "content_filter"),
            ("a_new_one", "stop"),
            (None, "stop"),
        ],
    )
    def test_says_why_the_model_stopped(self, reason, expected):
        found = json.loads(chat_answer(message(stop_reason=reason)))

        assert found["choices"][0]["finish_reason"] == expected

    def test_tells_why_the_model_refused(self):
        details = {"type": "refusal", "category": "cyber", "explanation": "Not that."}

        found = json.loads(chat_answer(message(stop_reason="refusal", stop_details=details)))

        assert found["choices"][0]["message"] == {
            "role": "assistant",
            "content": None,
            "refusal": "Not that.",
        }

    @pytest.mark.parametrize("usage", [None, {}, {"input_tokens": None}])
    def test_no_usage_is_not_a_usage_of_nothing(self, usage):
        assert json.loads(chat_answer(message(usage=usage)))["usage"] is None

    def test_passes_over_blocks_that_have_no_counterpart(self):
        results = {"type": "web_search_tool_result", "tool_use_id": "s", "content": {"a": [1]}}
        blocks = [{"type": "server_tool_use", "id": "s", "name": "w", "input": {}}, results]

        found = json.loads(chat_answer(message(content=blocks)))

        assert found["choices"][0]["message"] == {"role": "assistant", "content": None}

    def test_an_error_stays_an_error(self):
        body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'

        assert json.loads(chat_answer(body)) == {
            "error": {
                "message": "Overloaded",
                "type": "server_error",
                "param": None,
                "code": "overloaded_error",
            }
        }

    @pytest.mark.parametrize(
        "body",
        [
            *NONSENSE,
            b'{"type":"completion"}',
            message(content=[{"type": "tool_use"}]),
            message(usage={"input_tokens": "7"}),
        ],
    )
    def test_refuses_what_is_no_message(self, body):
        with pytest.raises(UpstreamNonsense):
            chat_answer(body)


class TestChatError:
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("invalid_request_error", "invalid_request_error"),
            ("authentication_error", "authentication_error"),
            ("permission_error", "permission_error"),
            ("not_found_error", "invalid_request_error"),
            ("request_too_large", "invalid_request_error"),
            ("rate_limit_error", "rate_limit_error"),
            ("billing_error", "billing_error"),
            ("api_error", "server_error"),
            ("overloaded_error", "server_error"),
            ("timeout_error", "server_error"),
        ],
    )
    def test_keeps_the_message_and_the_kind(self, kind, expected):
        body = json.dumps({"type": "error", "error": {"type": kind, "message": "Why"}}).encode()

        found = json.loads(chat_error(400, body))["error"]

        assert found == {"message": "Why", "type": expected, "param": None, "code": kind}

    @pytest.mark.parametrize("body", NONSENSE)
    @pytest.mark.parametrize(
        ("status", "kind"), [(502, "server_error"), (418, "invalid_request_error")]
    )
    def test_explains_what_came_without_a_reason(self, body, status, kind):
        found = json.loads(chat_error(status, body))["error"]

        assert found["type"] == kind
        assert str(status) in found["message"]


class TestMessageAnswer:
    def test_translates_a_completion(self):
        found = json.loads(message_answer(golden("chat-tools.json"), "alias"))

        assert found == value_of("chat-tools.as-message.json")

    @pytest.mark.parametrize(
        ("reason", "expected"),
        [
            ("stop", "end_turn"),
            ("length", "max_tokens"),
            ("tool_calls", "tool_use"),
            ("function_call", "tool_use"),
            ("content_filter", "refusal"),
            ("eos", "end_turn"),
            (None, "end_turn"),
        ],
    )
    def test_says_why_the_model_stopped(self, reason, expected):
        found = json.loads(message_answer(completion(reason, content="x"), "alias"))

        assert found["stop_reason"] == expected

    def test_a_call_is_a_reason_even_where_the_server_does_not_say_so(self):
        body = completion("stop", tool_calls=[called("{}")])

        assert json.loads(message_answer(body, "alias"))["stop_reason"] == "tool_use"

    def test_names_the_stop_sequence_where_the_server_does(self):
        choice = {"finish_reason": "stop", "stop_reason": "END", "message": {"content": "x"}}
        body = json.dumps({"id": "c", "choices": [choice]}).encode()

        found = json.loads(message_answer(body, "alias"))

        assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", "END")

    @pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
    def test_a_thought_has_nobody_to_vouch_for_it(self, name):
        found = json.loads(message_answer(completion(content="x", **{name: "hm"}), "alias"))

        assert found["content"][0] == {"type": "thinking", "thinking": "hm", "signature": ""}

    def test_a_refusal_is_said(self):
        found = json.loads(message_answer(completion(refusal="No."), "alias"))

        assert found["content"] == [{"type": "text", "text": "No."}]

    @pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "7", "nonsense"])
    def test_arguments_that_are_no_object_are_handed_on_as_such(self, arguments):
        body = completion("tool_calls", tool_calls=[called(arguments)])

        found = json.loads(message_answer(body, "alias"))

        assert found["content"][0]["input"] == {"INVALID_JSON": arguments}

    def test_counts_nothing_where_nothing_is_told(self):
        found = json.loads(message_answer(completion(content="x"), "alias"))

        assert found["usage"] == {"input_tokens": 0, "output_tokens": 0}

    @pytest.mark.parametrize("error", [{"message": "Why", "code": 429}, "Why"])
    def test_an_error_stays_an_error(self, error):
        found = json.loads(message_answer(json.dumps({"error": error}).encode(), "alias"))

        assert (found["type"], found["error"]["message"]) == ("error", "Why")

    @pytest.mark.parametrize(
        "body",
        [
            *NONSENSE,
            b"{}",
            b'{"choices":[]}',
            b'{"choices":[{}]}',
            completion(tool_calls=[{"id": "t", "type": "custom"}]),
        ],
    )
    def test_refuses_what_is_no_completion(self, body):
        with pytest.raises(UpstreamNonsense):
            message_answer(body, "alias")


class TestMessageError:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (413, "request_too_large"),
            (422, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
            (529, "overloaded_error"),
        ],
    )
    def test_the_type_follows_from_the_status(self, status, kind):
        body = b'{"error":{"message":"Why","type":"x","param":null,"code":"y"},"request_id":"r"}'

        assert json.loads(message_error(status, body)) == {
            "type": "error",
            "error": {"type": kind, "message": "Why"},
            "request_id": "r",
        }

    @pytest.mark.parametrize("body", NONSENSE)
    def test_explains_what_came_without_a_reason(self, body):
        found = json.loads(message_error(502, body))

        assert found["error"]["message"] == "The upstream answered 502 without saying why."
