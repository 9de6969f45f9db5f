"""Requests, as chat completions."""

import json

import pytest

from app.modules.routing.domain.envelope import BadEnvelope, with_model
from app.modules.routing.domain.responses.reading import read_items
from app.modules.routing.domain.responses.request import read_responses
from app.modules.routing.domain.responses.to_chat import chat_request
from app.modules.routing.domain.unmappable import Unmappable
from tests.modules.routing.responses.cases import golden, request


def chat(history: str = "[]", **members) -> dict:
    return json.loads(chat_request(request(**members), read_items(history.encode())))


class TestChatRequest:
    @pytest.mark.parametrize("path", golden("request-*.json"))
    def test_is_as_in_the_golden_file(self, path):
        case = json.loads(path.read_text())
        asked = read_responses(json.dumps(case["request"]).encode())
        history = read_items(json.dumps(case.get("history", [])).encode())

        assert json.loads(chat_request(asked, history)) == case["chat"]

    def test_the_model_is_where_it_is_looked_for(self):
        body = chat_request(request(input='a "model": "trap"', metadata={"model": "trap"}))

        assert json.loads(with_model(body, "other"))["model"] == "other"
        assert body.startswith(b'{"model":"small"')

    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_what_is_said_to_the_system_in_turn_is_one_message(self, role):
        items = [{"role": role, "content": "One."}, {"role": role, "content": "Two."}]

        assert chat(input=items)["messages"] == [{"role": "system", "content": "One.\n\nTwo."}]

    def test_text_after_calls_goes_beside_them(self):
        items = [
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"role": "assistant", "content": "Wait."},
            {"type": "function_call_output", "call_id": "1", "output": ""},
        ]

        first, second = chat(input=items)["messages"]

        assert (first["content"], len(first["tool_calls"])) == ("Wait.", 1)
        assert second == {"role": "tool", "content": "", "tool_call_id": "1"}

    def test_two_answers_in_turn_stay_two(self):
        items = [{"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."}]

        assert [message["content"] for message in chat(input=items)["messages"]] == ["One.", "Two."]

    def test_a_user_who_says_nothing_says_an_empty_text(self):
        assert chat(input=[{"role": "user", "content": []}])["messages"][0]["content"] == ""

    def test_instructions_of_earlier_turns_are_not_repeated_but_what_was_said_is(self):
        history = '[{"role":"user","content":"Hello."},{"role":"assistant","content":"Hello!"}]'

        messages = chat(history, instructions="Be brief.", input="And?")["messages"]

        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]

    def test_a_conversation_may_go_on_without_a_word(self):
        history = '[{"role":"user","content":"Hello."}]'

        assert len(chat(history, input=[])["messages"]) == 1

    def test_log_probabilities_are_asked_for_by_their_number_too(self):
        asked = chat(top_logprobs=3)

        assert (asked["logprobs"], asked["top_logprobs"]) == (True, 3)

    def test_an_allowed_tool_that_is_none_leaves_none(self):
        choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]}

        asked = chat(tools=[{"type": "function", "name": "f"}], tool_choice=choice)

        assert "tools" not in asked
        assert "tool_choice" not in asked

    @pytest.mark.parametrize("given", [{"input": []}, {"input": None}, {"input": [], "user": "u"}])
    def test_nothing_to_answer_is_refused(self, given):
        with pytest.raises(BadEnvelope) as refused:
            chat(instructions="Be brief.", **given)

        assert refused.value.extra["param"] == "input"

    @pytest.mark.parametrize(
        ("given", "param"),
        [
            ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
                "input[0].content[0]",
            ),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
                "input[0].content[0]",
            ),
            (
                {
                    "input": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "input_image", "image_url": "u", "detail": "original"}
                            ],
                        }
                    ]
                },
                "input[0].content[0].detail",
            ),
            (
                {
                    "input": [
                        {"role": "system", "content": [{"type": "input_image", "image_url": "u"}]}
                    ]
                },
                "input[0].content[0]",
            ),
            (
                {
                    "input": [
                        {
                            "type": "function_call_output",
                            "call_id": "1",
                            "output": [{"type": "input_image", "image_url": "u"}],
                        }
                    ]
                },
                "input[0].output[0]",
            ),
            ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type"),
            (
                {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}]}},
                "tool_choice.tools[0].type",
            ),
        ],
    )
    def test_what_chat_has_no_place_for_is_named(self, given, param):
        with pytest.raises(Unmappable) as refused:
            chat(**given)

        assert refused.value.extra["param"] == param
