"""A chat, asked of the Gemini API."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.errors import Invalid
from app.modules.routing.domain.google.request import generate_request
from app.modules.routing.domain.messages.reading import BadMember
from app.modules.routing.domain.unmappable import Unmappable
from tests.modules.routing.google.golden import cases, read

HELLO = {"role": "user", "content": "hello"}
FUNCTION = {"type": "function", "function": {"name": "f"}}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = [
    "model", "messages", "max_tokens", "temperature", "n", "stop", "tools", "tool_choice", "seed",
    "response_format", "reasoning_effort", "logprobs", "top_logprobs", "logit_bias", "user",
]  # fmt: skip
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={
            "content": json_values
            | st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(["text", "image_url", "input_audio", "file"])},
                    optional={"text": json_values, "image_url": json_values, "file": json_values},
                )
            ),
            "tool_calls": json_values,
            "tool_call_id": json_values,
            "extra_content": json_values,
        },
    ),
    max_size=4,
)


def asked(*said: Any, model: str = "gemini-2.5-flash", **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": list(said) or [HELLO], **more}
    return json.loads(generate_request(json.dumps(body).encode()))


def thinking(model: str, effort: str) -> dict[str, Any]:
    return asked(model=model, reasoning_effort=effort)["generationConfig"]["thinkingConfig"]


class TestGenerateRequest:
    @pytest.mark.parametrize("case", cases("requests", ".chat.json"))
    def test_is_as_written(self, case):
        found = generate_request(read("requests", f"{case}.chat.json"))

        assert json.loads(found) == json.loads(read("requests", f"{case}.google.json"))

    @pytest.mark.parametrize(
        ("member", "value"),
        [
            ("logit_bias", {"5": -100}),
            ("parallel_tool_calls", False),
            ("modalities", ["text", "audio"]),
            ("audio", {"voice": "alloy"}),
            ("functions", [{"name": "f"}]),
            ("function_call", "auto"),
            ("prediction", {"type": "content"}),
            ("service_tier", "flex"),
            ("store", True),
            ("verbosity", "low"),
            ("web_search_options", {}),
            ("no_such_member", 1),
        ],
    )
    def test_names_a_member_that_gemini_has_nothing_like(self, member, value):
        with pytest.raises(Unmappable) as caught:
            asked(**{member: value})

        assert caught.value.extra["param"] == member
        assert f"`{member}`" in str(caught.value)

    @pytest.mark.parametrize(
        "member",
        ["logit_bias", "audio", "n", "tools", "stop", "reasoning_effort", "no_such_member"],
    )
    def test_takes_null_for_not_said(self, member):
        assert asked(**{member: None}) == asked()

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"role": "user", "content": "x", "name": "Ann"}, "messages[0].name"),
            ({"role": "function", "name": "f", "content": "x"}, "messages[0].name"),
            ({"role": "owner", "content": "x"}, "messages[0].role"),
            ({"role": "assistant", "audio": {"id": "a"}}, "messages[0].audio"),
            ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call"),
            ({"role": "user", "content": [{"type": "video"}]}, "messages[0].content[0].type"),
            (
                {
                    "role": "system",
                    "content": [{"type": "image_url", "image_url": "data:a/b;base64,"}],
                },
                "messages[0].content[0].type",
            ),
            (
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "x"},
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
                    ],
                },
                "messages[0].content[1].image_url.url",
            ),
            (
                {"role": "user", "content": [{"type": "image_url", "image_url": "data:,x"}]},
                "messages[0].content[0].image_url.url",
            ),
            (
                {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
                "messages[0].content[0].file.file_data",
            ),
            (
                {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]},
                "messages[0].tool_calls[0].type",
            ),
        ],
    )
    def test_names_the_part_of_a_message_that_cannot_be_said(self, message, param):
        with pytest.raises(Unmappable) as caught:
            asked(message)

        assert caught.value.extra["param"] == param

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
            ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
            ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ],
    )
    def test_names_the_kind_that_gemini_has_not(self, more, param):
        with pytest.raises(Unmappable) as caught:
            asked(**more)

        assert caught.value.extra["param"] == param

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"temperature": "hot"}, "temperature"),
            ({"n": 0}, "n"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"seed": 2**60}, "seed"),
            ({"reasoning_effort": "a lot"}, "reasoning_effort"),
            ({"tools": [FUNCTION], "tool_choice": "maybe"}, "tool_choice"),
            ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user", "content": ""}]}, "messages"),
            ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
            (
                {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
                "messages[0].content[0].text",
            ),
            (
                {"messages": [{"role": "tool", "tool_call_id": "gone", "content": "x"}]},
                "messages[0].tool_call_id",
            ),
            (
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "tool_calls": [
                                {"id": "c", "function": {"name": "f", "arguments": "[1]"}}
                            ],
                        }
                    ]
                },
                "messages[0].tool_calls[0].function.arguments",
            ),
        ],
    )
    def test_names_a_member_that_is_wrong(self, more, param):
        with pytest.raises(BadMember) as caught:
            asked(**more)

        assert caught.value.extra["param"] == param

    def test_calls_a_result_after_the_last_call_with_its_id(self):
        def call(name: str) -> dict[str, Any]:
            return {"role": "assistant", "tool_calls": [{"id": "0", "function": {"name": name}}]}

        result = {"role": "tool", "tool_call_id": "0", "content": "x"}

        turns = asked(HELLO, call("one"), result, call("two"), result)["contents"]

        named = [turn["parts"][0]["functionResponse"]["name"] for turn in turns[2::2]]
        assert named == ["one", "two"]

    @pytest.mark.parametrize(
        "model", ["gemini-2.5-pro", "gemini-2.0-flash", "gemini-1.5-pro", "gemma-3-27b-it"]
    )
    def test_signs_no_call_for_models_that_do_not_ask_for_it(self, model):
        call = {"role": "assistant", "tool_calls": [{"id": "0", "function": {"name": "f"}}]}

        part = asked(HELLO, call, model=model)["contents"][1]["parts"][0]

        assert "thoughtSignature" not in part

    @pytest.mark.parametrize("model", ["gemini-3-pro", "gemini-3.1-flash", "gemini-flash-latest"])
    def test_tells_later_models_a_level(self, model):
        assert thinking(model, "xhigh") == {"includeThoughts": True, "thinkingLevel": "HIGH"}

    @pytest.mark.parametrize("model", ["gemini-2.5-pro", "models/gemini-2.5-flash"])
    def test_tells_earlier_models_a_budget(self, model):
        assert thinking(model, "high") == {"includeThoughts": True, "thinkingBudget": 24_576}

    @pytest.mark.parametrize(
        "body",
        [b"", b"[]", b"{", b'{"model":"m"}', b'{"model":"\xff","messages":[]}', b"[" * 100_000],
    )
    def test_refuses_what_is_no_request(self, body):
        with pytest.raises(Invalid):
            generate_request(body)

    @given(st.dictionaries(st.sampled_from(MEMBERS), json_values), messages)
    def test_fails_in_one_way_only(self, members, said):
        body = json.dumps({"model": "gemini-3-pro", "messages": said} | members).encode()

        with suppress(Invalid):
            json.loads(generate_request(body))

    @given(st.binary())
    def test_fails_in_one_way_on_any_bytes(self, body):
        with suppress(Invalid):
            generate_request(body)
