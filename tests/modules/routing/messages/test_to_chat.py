"""Messages requests, translated for a server that speaks chat completions."""

import json

import pytest

from app.modules.routing.domain.messages.reading import BadMember
from app.modules.routing.domain.messages.to_chat import IMAGE_FOLLOWS, KNOWN, chat_request
from app.modules.routing.domain.unmappable import Unmappable
from tests.modules.routing.messages.golden import golden, value_of

HELLO = [{"role": "user", "content": "hello"}]
LOOK = [{"name": "look", "input_schema": {"type": "object"}}]
REQUIRED = {"model", "max_tokens", "messages"}


def translated(messages: object = HELLO, **more) -> dict:
    body = {"model": "alias", "max_tokens": 10, "messages": messages, **more}
    return json.loads(chat_request(json.dumps(body).encode()))


def said(*blocks: dict, role: str = "user") -> list[dict]:
    return [{"role": role, "content": list(blocks)}]


class TestChatRequest:
    def test_translates_everything_that_has_a_counterpart(self):
        found = chat_request(golden("messages-request.json"))

        assert json.loads(found) == value_of("messages-request.as-chat.json")

    def test_a_short_request_is_a_short_request(self):
        assert translated() == {"model": "alias", "max_tokens": 10, "messages": HELLO}

    def test_asks_a_stream_for_its_usage(self):
        assert translated(stream=True)["stream_options"] == {"include_usage": True}

    @pytest.mark.parametrize("member", [*sorted(KNOWN - REQUIRED), "container"])
    def test_takes_null_for_nothing(self, member):
        assert translated(**{member: None}) == translated()

    @pytest.mark.parametrize(
        ("member", "param"),
        [
            ({"container": "c"}, "container"),
            ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
            ({"inference_geo": "eu"}, "inference_geo"),
            (
                {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
                "context_management.edits[0].type",
            ),
            ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
            ({"thinking": {"type": "deep"}}, "thinking.type"),
            (
                {"output_config": {"format": {"type": "xml", "schema": {}}}},
                "output_config.format.type",
            ),
            ({"service_tier": "gold"}, "service_tier"),
            ({"system": [{"type": "image"}]}, "system[0].type"),
            ({"messages": said({"type": "document"})}, "messages[0].content[0].type"),
            ({"messages": said({"type": "search_result"})}, "messages[0].content[0].type"),
            (
                {"messages": said({"type": "server_tool_use", "id": "s"}, role="assistant")},
                "messages[0].content[0].type",
            ),
            (
                {"messages": said({"type": "image", "source": {"type": "file"}})},
                "messages[0].content[0].source.type",
            ),
            (
                {
                    "messages": said(
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [{"type": "document"}],
                        }
                    )
                },
                "messages[0].content[0].content[0].type",
            ),
        ],
    )
    def test_names_what_has_no_counterpart(self, member, param):
        with pytest.raises(Unmappable) as caught:
            translated(**member)

        assert caught.value.extra["param"] == param

    @pytest.mark.parametrize(
        ("member", "param"),
        [
            ({"max_tokens": None}, "max_tokens"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user", "content": []}]}, "messages"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": said({"type": "text"})}, "messages[0].content[0].text"),
            ({"messages": said({"type": "image"})}, "messages[0].content[0].source"),
            (
                {"messages": said({"type": "image", "source": {"type": "base64"}})},
                "messages[0].content[0].source",
            ),
            ({"messages": said({"type": "tool_result"})}, "messages[0].content[0].tool_use_id"),
            (
                {"messages": said({"type": "tool_use", "id": "t"}, role="assistant")},
                "messages[0].content[0]",
            ),
            (
                {
                    "messages": said(
                        {"type": "tool_use", "id": "t", "name": "f", "input": [1]}, role="assistant"
                    )
                },
                "messages[0].content[0].input",
            ),
            ({"system": 7}, "system"),
            ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
            ({"tools": LOOK, "tool_choice": {"type": "tool"}}, "tool_choice"),
            ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
            ({"context_management": 7}, "context_management"),
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
            b'{"model":"m","max_tokens":1}',
            b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"\xff"}]}',
            b'{"model":"m","max_tokens":1,"tools":[{"name":"f","input_schema":{"x":"\xff"}}]}',
            b'{"model":"m","max_tokens":1,"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
    )
    def test_refuses_what_is_no_request(self, body):
        with pytest.raises(BadMember):
            chat_request(body)


class TestTurns:
    def test_joins_what_one_side_says_in_a_row(self):
        given = [
            *said({"type": "text", "text": "a"}),
            *said({"type": "text", "text": "b"}),
            {"role": "assistant", "content": "c"},
            {"role": "assistant", "content": "d"},
        ]

        found = translated(given)["messages"]

        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert found == [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "cd"},
        ]

    def test_a_system_message_stays_where_it_stands(self):
        given = [*HELLO, {"role": "system", "content": "Be brief."}, *HELLO]

        roles = [message["role"] for message in translated(given)["messages"]]

        assert roles == ["user", "system", "user"]

    def test_a_turn_of_thoughts_only_is_none(self):
        thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
        given = [*HELLO, *said(thought, role="assistant"), *HELLO]

        roles = [message["role"] for message in translated(given)["messages"]]

        assert roles == ["user", "user"]

    def test_results_stand_before_what_the_user_adds(self):
        given = said({"type": "text", "text": "here"}, {"type": "tool_result", "tool_use_id": "t"})

        found = translated(given)["messages"]

        assert found == [
            {"role": "tool", "content": "", "tool_call_id": "t"},
            {"role": "user", "content": "here"},
        ]

    def test_says_where_the_image_of_a_result_is(self):
        image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
        given = said({"type": "tool_result", "tool_use_id": "t", "content": [image]})

        found = translated(given)["messages"]

        assert found[0] == {"role": "tool", "content": IMAGE_FOLLOWS, "tool_call_id": "t"}
        assert found[1]["content"][0]["image_url"] == {"url": "https://example.com/a.png"}

    def test_a_call_without_text_has_null_for_content(self):
        call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}

        found = translated([*HELLO, *said(call, role="assistant")])["messages"]

        assert found[1]["content"] is None


class TestTools:
    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ({"type": "auto"}, {"tool_choice": "auto"}),
            ({"type": "any"}, {"tool_choice": "required"}),
            ({"type": "none"}, {"tool_choice": "none"}),
            (
                {"type": "auto", "disable_parallel_tool_use": True},
                {"tool_choice": "auto", "parallel_tool_calls": False},
            ),
            ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
        ],
    )
    def test_says_which_one_to_call(self, choice, expected):
        found = translated(tools=LOOK, tool_choice=choice)

        asked = {"tool_choice", "parallel_tool_calls"} & found.keys()
        assert {name: found[name] for name in asked} == expected

    @pytest.mark.parametrize("kind", ["auto", "none"])
    def test_says_nothing_of_tools_that_are_not_there(self, kind):
        choice = {"type": kind, "disable_parallel_tool_use": True}

        assert translated(tool_choice=choice) == translated()


class TestThinking:
    @pytest.mark.parametrize(
        ("asked", "effort"),
        [
            ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
            ({"thinking": {"type": "enabled", "budget_tokens": 2049}}, "medium"),
            ({"thinking": {"type": "enabled", "budget_tokens": 31_999}}, "high"),
            ({"thinking": {"type": "adaptive"}}, None),
            ({"thinking": {"type": "disabled"}}, None),
            ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "max"),
            ({"output_config": {"effort": "low"}}, "low"),
            ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, None),
            (
                {
                    "thinking": {"type": "enabled", "budget_tokens": 1024},
                    "output_config": {"effort": "high"},
                },
                "high",
            ),
        ],
    )
    def test_becomes_an_effort(self, asked, effort):
        assert translated(**asked).get("reasoning_effort") == effort
