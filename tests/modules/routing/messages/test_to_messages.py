"""Chat completions' requests, translated for a server that speaks Messages."""

import json

import pytest

from app.modules.routing.domain.messages.reading import BadMember
from app.modules.routing.domain.messages.to_messages import (
    DEFAULT_MAX_TOKENS,
    KNOWN,
    messages_request,
)
from app.modules.routing.domain.unmappable import Unmappable
from tests.modules.routing.messages.golden import golden, value_of

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "now"}}]
CALL = {"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}


def translated(model: str = "claude-haiku-4-5", messages: object = HELLO, **more) -> dict:
    body = {"model": "alias", "messages": messages, **more}
    return json.loads(messages_request(json.dumps(body).encode(), model))


class TestMessagesRequest:
    def test_translates_everything_that_has_a_counterpart(self):
        found = messages_request(golden("chat-request.json"), "claude-sonnet-4-6")

        assert json.loads(found) == value_of("chat-request.as-messages.json")

    def test_sets_a_limit_where_the_caller_has_none(self):
        found = translated()

        assert found == {
            "model": "claude-haiku-4-5",
            "max_tokens": DEFAULT_MAX_TOKENS,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        }

    def test_keeps_arguments_and_schemas_byte_for_byte(self):
        call = {**CALL, "function": {"name": "now", "arguments": '{ "x": 1.10 }'}}
        body = b'{"model":"m","messages":[{"role":"assistant","tool_calls":[%s]}],"tools":[{"type":'
        body += b'"function","function":{"name":"now","parameters":{ "maximum": 1e2 }}}]}'

        found = messages_request(body % json.dumps(call).encode(), "m")

        assert b'"input":{ "x": 1.10 }' in found
        assert b'"input_schema":{ "maximum": 1e2 }' in found

    @pytest.mark.parametrize(
        "member",
        [
            {"n": 2},
            {"seed": 7},
            {"logprobs": True},
            {"top_logprobs": 3},
            {"logit_bias": {"50256": -100}},
            {"presence_penalty": 0.1},
            {"frequency_penalty": -2},
            {"modalities": ["text", "audio"]},
            {"audio": {"voice": "a", "format": "wav"}},
            {"prediction": {"type": "content", "content": "x"}},
            {"web_search_options": {}},
            {"functions": [{"name": "f"}]},
            {"function_call": "auto"},
            {"store": True},
            {"verbosity": "low"},
            {"moderation": {}},
            {"service_tier": "priority"},
            {"min_p": 0.1},
            {"temperature": 1.01},
            {"temperature": -0.1},
            {"stop": "\n"},
        ],
    )
    def test_names_what_has_no_counterpart(self, member):
        with pytest.raises(Unmappable) as caught:
            translated(**member)

        assert caught.value.extra["param"] == next(iter(member))

    @pytest.mark.parametrize("member", [*sorted(KNOWN - {"model", "messages"}), "seed", "min_p"])
    def test_takes_null_for_nothing(self, member):
        assert translated(**{member: None}) == translated()

    @pytest.mark.parametrize(
        ("messages", "param"),
        [
            ([{"role": "function", "name": "f", "content": "x"}], "messages[0].role"),
            ([*HELLO, {"role": "system", "content": "x"}], "messages[1].role"),
            ([{"role": "user", "name": "Ann", "content": "x"}], "messages[0].name"),
            ([{"role": "assistant", "audio": {"id": "a"}}], "messages[0].audio"),
            ([{"role": "assistant", "function_call": {"name": "f"}}], "messages[0].function_call"),
            (
                [{"role": "user", "content": [{"type": "input_audio"}]}],
                "messages[0].content[0].type",
            ),
            ([{"role": "user", "content": [{"type": "file"}]}], "messages[0].content[0].type"),
            (
                [{"role": "user", "content": [{"type": "image_url", "image_url": "ftp://x/y"}]}],
                "messages[0].content[0].image_url.url",
            ),
            (
                [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": "data:image/tiff;base64,A"}],
                    }
                ],
                "messages[0].content[0].image_url.url",
            ),
            (
                [
                    {
                        "role": "system",
                        "content": [{"type": "image_url", "image_url": "http://x/y"}],
                    }
                ],
                "messages[0].content[0].type",
            ),
            (
                [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f"}}],
                    }
                ],
                "messages[0].tool_calls[0].type",
            ),
        ],
    )
    def test_names_the_place_in_a_message_that_has_no_counterpart(self, messages, param):
        with pytest.raises(Unmappable) as caught:
            translated(messages=messages)

        assert caught.value.extra["param"] == param

    @pytest.mark.parametrize(
        ("member", "param"),
        [
            ({"messages": "hello"}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user", "content": " \n"}]}, "messages"),
            ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
            ({"messages": [{"content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
                "messages[0].content[0].text",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
                "messages[0].content[0].text",
            ),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
            (
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[1]"}}],
                        }
                    ]
                },
                "messages[0].tool_calls[0].function.arguments",
            ),
            ({"max_tokens": -1}, "max_tokens"),
            ({"max_tokens": "many"}, "max_tokens"),
            ({"temperature": "hot"}, "temperature"),
            ({"stop": [1]}, "stop[0]"),
            ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
            ({"tool_choice": "always"}, "tool_choice"),
            ({"reasoning_effort": "immense"}, "reasoning_effort"),
            (
                {"response_format": {"type": "json_schema"}},
                "response_format.json_schema.schema",
            ),
        ],
    )
    def test_names_what_is_wrong_in_any_api(self, member, param):
        with pytest.raises(BadMember) as caught:
            translated(**member)

        assert caught.value.extra["param"] == param

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"model":"m"}',
            b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
            b'{"model":"m","x":"\xff"}',
            b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"model":"m","n":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
    )
    def test_refuses_what_is_no_request(self, body):
        with pytest.raises(BadMember):
            messages_request(body, "m")


class TestTools:
    @pytest.mark.parametrize(
        ("asked", "choice"),
        [
            ({"tool_choice": "auto"}, {"type": "auto"}),
            ({"tool_choice": "none"}, {"type": "none"}),
            ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
            ({"tool_choice": "required"}, {"type": "any"}),
            (
                {"tool_choice": {"type": "function", "function": {"name": "now"}}},
                {"type": "tool", "name": "now"},
            ),
            ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
            (
                {
                    "tool_choice": {"type": "function", "function": {"name": "now"}},
                    "parallel_tool_calls": False,
                },
                {"type": "tool", "name": "now", "disable_parallel_tool_use": True},
            ),
        ],
    )
    def test_says_which_one_to_call(self, asked, choice):
        assert translated(tools=TOOLS, **asked)["tool_choice"] == choice

    @pytest.mark.parametrize(
        "asked", [{"tool_choice": "auto"}, {"tool_choice": "none"}, {"parallel_tool_calls": False}]
    )
    def test_says_nothing_of_tools_that_are_not_there(self, asked):
        assert translated(**asked) == translated()

    @pytest.mark.parametrize(
        ("asked", "param"),
        [
            ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
            ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ],
    )
    def test_names_a_kind_of_tool_that_is_not_there(self, asked, param):
        with pytest.raises(Unmappable) as caught:
            translated(**asked)

        assert caught.value.extra["param"] == param

    def test_an_empty_result_has_no_content(self):
        said = [
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": ""},
        ]

        found = translated(messages=said)

        assert found["messages"][1]["content"] == [{"type": "tool_result", "tool_use_id": "c"}]


class TestEmptyContent:
    def test_leaves_out_text_that_the_server_refuses(self):
        said = [
            *HELLO,
            {"role": "assistant", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": " "}]},
            {"role": "user", "content": "again"},
        ]

        found = translated(messages=said)

        texts = [block["text"] for block in found["messages"][0]["content"]]
        assert texts == ["hello", "again"]

    @pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": "\n"}]])
    def test_an_empty_system_prompt_is_none(self, content):
        said = [{"role": "system", "content": content}, *HELLO]

        assert translated(messages=said) == translated()


class TestThinking:
    @pytest.mark.parametrize(
        ("model", "effort", "thinking", "config"),
        [
            ("claude-opus-4-7", "minimal", "adaptive", {"effort": "low"}),
            ("claude-sonnet-4-6", "medium", "adaptive", {"effort": "medium"}),
            ("claude-sonnet-5", "xhigh", "adaptive", {"effort": "xhigh"}),
            ("us.anthropic.claude-opus-4-6-v1:0", "max", "adaptive", {"effort": "max"}),
            ("claude-opus-4-7", "none", "disabled", None),
            ("claude-haiku-4-5-20251001", "low", "enabled", None),
            ("claude-sonnet-4-20250514", "low", "enabled", None),
            ("claude-3-7-sonnet-20250219", "low", "enabled", None),
            ("some-other-model", "low", "enabled", None),
        ],
    )
    def test_speaks_of_it_as_the_model_knows_it(self, model, effort, thinking, config):
        found = translated(model, reasoning_effort=effort)

        assert (found["thinking"]["type"], found.get("output_config")) == (thinking, config)

    @pytest.mark.parametrize(
        ("effort", "limit_tokens", "budget_tokens"),
        [
            ("minimal", 32_000, 1024),
            ("low", 32_000, 2048),
            ("medium", 32_000, 8192),
            ("high", 64_000, 16_384),
            ("xhigh", 64_000, 24_576),
            ("max", 100_000, 32_768),
            ("high", 8_000, 4_000),
            ("high", 1_500, 1_024),
        ],
    )
    def test_leaves_half_of_the_limit_to_the_answer(self, effort, limit_tokens, budget_tokens):
        found = translated(reasoning_effort=effort, max_tokens=limit_tokens)

        assert found["max_tokens"] == limit_tokens
        assert found["thinking"] == {"type": "enabled", "budget_tokens": budget_tokens}

    def test_refuses_a_limit_that_leaves_no_room(self):
        with pytest.raises(Unmappable, match="above 1024") as caught:
            translated(reasoning_effort="low", max_tokens=1024)

        assert caught.value.extra["param"] == "reasoning_effort"


class TestResponseFormat:
    def test_text_is_what_a_model_says_anyway(self):
        assert translated(response_format={"type": "text"}) == translated()

    def test_refuses_any_json_since_there_is_no_such_promise(self):
        with pytest.raises(Unmappable) as caught:
            translated(response_format={"type": "json_object"})

        assert caught.value.extra["param"] == "response_format.type"


class TestUser:
    def test_the_newer_name_goes_first(self):
        found = translated(user="old", safety_identifier="new")

        assert found["metadata"] == {"user_id": "new"}
