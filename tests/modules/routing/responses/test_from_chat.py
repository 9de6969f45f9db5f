"""Whole answers, as Responses."""

import json

import pytest

from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.responses.from_chat import response_answer
from app.modules.routing.domain.responses.request import read_responses
from tests.modules.routing.responses.cases import (
    CREATED_S,
    DONE,
    RESPONSE,
    RESPONSE_ID,
    chunk,
    golden,
    request,
    translated,
)

MESSAGE = {"role": "assistant", "content": "Hello!"}
# What OpenAI's document says that every response has.
REQUIRED = {
    "id",
    "object",
    "created_at",
    "error",
    "incomplete_details",
    "instructions",
    "model",
    "tools",
    "output",
    "parallel_tool_calls",
    "metadata",
    "tool_choice",
    "temperature",
    "top_p",
}


def answer(chat: dict, **members) -> dict:
    body = json.dumps({"model": "small-2026", **chat}).encode()
    return json.loads(response_answer(body, request(**members), RESPONSE_ID, CREATED_S))


def said(message: dict, finish: str | None = "stop", **members) -> dict:
    return answer({"choices": [{"message": message, "finish_reason": finish}]}, **members)


class TestResponseAnswer:
    @pytest.mark.parametrize("path", golden("answer-*.json"))
    def test_is_as_in_the_golden_file(self, path):
        case = json.loads(path.read_text())
        asked = read_responses(json.dumps(case["request"]).encode())

        body = response_answer(json.dumps(case["chat"]).encode(), asked, RESPONSE_ID, CREATED_S)

        assert json.loads(body) == case["response"]

    @pytest.mark.parametrize("path", golden("answer-*.json"))
    def test_is_what_the_client_understands(self, path):
        response = json.loads(path.read_text())["response"]

        read = RESPONSE.validate_python(response)

        assert read.id == RESPONSE_ID
        assert response.keys() >= REQUIRED

    @pytest.mark.parametrize(
        ("finish", "status", "reason"),
        [
            ("stop", "completed", None),
            ("tool_calls", "completed", None),
            ("anything", "completed", None),
            (None, "completed", None),
            ("length", "incomplete", "max_output_tokens"),
            ("content_filter", "incomplete", "content_filter"),
            ("error", "failed", None),
            ("abort", "failed", None),
        ],
    )
    def test_the_reason_to_stop_decides_on_the_status(self, finish, status, reason):
        response = said(MESSAGE, finish)

        details = response["incomplete_details"]
        assert (response["status"], details and details["reason"]) == (status, reason)
        assert (response["error"] is not None) is (status == "failed")
        assert response["output"][-1]["status"] == (
            "completed" if status == "completed" else "incomplete"
        )

    def test_says_the_terms_as_they_were(self):
        terms = {
            "instructions": "Be brief.",
            "max_output_tokens": 64,
            "parallel_tool_calls": False,
            "previous_response_id": "resp_00000000000000000000000000000001",
            "reasoning": {"effort": "low", "summary": "auto"},
            "store": False,
            "temperature": 0.5,
            "text": {"format": {"type": "json_object"}, "verbosity": "low"},
            "tool_choice": {"type": "function", "name": "f"},
            "tools": [
                {
                    "type": "function",
                    "name": "f",
                    "description": "d",
                    "parameters": {"type": "object"},
                    "strict": False,
                }
            ],
            "top_p": 0.25,
            "user": "u",
            "metadata": {"a": "b"},
        }

        response = said(MESSAGE, **terms)

        assert {name: response[name] for name in terms} == terms

    def test_the_model_is_the_one_that_answered(self):
        assert said(MESSAGE)["model"] == "small-2026"

    def test_a_server_that_names_no_model_answers_as_the_one_asked(self):
        assert answer({"model": None, "choices": [{"message": MESSAGE}]})["model"] == "small"

    def test_only_the_first_choice_was_asked_for(self):
        choices = [{"index": 1, "message": {"content": "B"}}, {"index": 0, "message": MESSAGE}]

        (message,) = answer({"choices": choices})["output"]

        assert message["content"][0]["text"] == "Hello!"

    @pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
    def test_thoughts_come_first_by_either_name(self, name):
        thought, message = said({**MESSAGE, name: "Hm."})["output"]

        assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "Hm.")
        assert message["type"] == "message"

    def test_usage_that_nobody_told_is_left_out(self):
        assert "usage" not in said(MESSAGE)

    @pytest.mark.parametrize(
        ("tier", "shown"), [("flex", "flex"), ("on_demand", None), (None, None)]
    )
    def test_a_tier_of_the_servers_own_is_left_out(self, tier, shown):
        response = answer({"choices": [{"message": MESSAGE}], "service_tier": tier})

        assert response.get("service_tier") == shown

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            ({"message": "Busy.", "code": 429}, "rate_limit_exceeded", "Busy."),
            ({"message": "Busy.", "type": "rate_limit_error"}, "rate_limit_exceeded", "Busy."),
            ({"message": "Broken.", "code": "x"}, "server_error", "Broken."),
            ({}, "server_error", "The model's server reported an error without saying which."),
            ("oh no", "server_error", "The model's server reported an error without saying which."),
        ],
    )
    def test_an_error_under_a_200_is_a_response_that_failed(self, error, code, message):
        response = answer({"error": error})

        assert response["status"] == "failed"
        assert response["error"] == {"code": code, "message": message}

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":5}', b"[" * 100_000],
        ids=lambda body: body[:12],
    )
    def test_what_is_no_chat_completion_is_nonsense(self, body):
        with pytest.raises(UpstreamNonsense):
            response_answer(body, request(), RESPONSE_ID, CREATED_S)

    def test_is_what_the_same_answer_is_as_a_stream(self):
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        call = {"id": "call_1", "function": {"name": "f", "arguments": "{}"}}
        message = {**MESSAGE, "reasoning": "Hm.", "refusal": "No.", "tool_calls": [call]}

        whole = answer({"choices": [{"message": message}], "usage": usage})
        *_, last = translated(chunk(message) + chunk(usage=usage) + DONE)

        assert last["response"] == whole
