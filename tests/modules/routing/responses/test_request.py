"""Reading what a caller asks for."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernel.errors import Invalid
from app.modules.routing.domain.envelope import BadEnvelope
from app.modules.routing.domain.responses.items import (
    InputImage,
    InputText,
    ItemReference,
    Message,
    OutputText,
)
from app.modules.routing.domain.responses.request import Members, read_responses
from app.modules.routing.domain.responses.to_chat import chat_request
from app.modules.routing.domain.unmappable import Unmappable
from tests.modules.routing.responses.cases import request


class TestReadResponses:
    def test_a_string_is_what_a_user_says(self):
        assert request(input="Hello.").items == (
            Message(role="user", content=[InputText("Hello.")]),
        )

    def test_a_message_and_a_reference_need_no_type(self):
        items = request(input=[{"role": "assistant", "content": "Hi."}, {"id": "msg_1"}]).items

        assert items == (
            Message(role="assistant", content=[OutputText("Hi.")]),
            ItemReference(id="msg_1"),
        )

    def test_a_picture_without_a_detail_has_the_usual_one(self):
        picture = {"type": "input_image", "image_url": "u", "detail": None}

        (message,) = request(input=[{"role": "user", "content": [picture]}]).items

        assert message.content == [InputImage(image_url="u", detail="auto")]

    def test_members_that_nobody_knows_are_the_models(self):
        found = request(top_k=3, models=["a"], provider={"only": ["b"]})

        assert {name: bytes(raw) for name, raw in found.further.items()} == {"top_k": b"3"}

    @pytest.mark.parametrize(("store", "is_kept"), [(None, True), (True, True), (False, False)])
    def test_is_kept_unless_the_caller_says_otherwise(self, store, is_kept):
        assert request(store=store).is_kept is is_kept

    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type"),
            ({"tools": [{"type": "code_interpreter", "container": "c"}]}, "tools[0].type"),
            ({"tools": [{"type": "computer_use_preview"}]}, "tools[0].type"),
            ({"tools": [{"type": "mcp", "server_label": "s"}]}, "tools[0].type"),
            ({"tools": [{"type": "image_generation"}]}, "tools[0].type"),
            ({"tools": [{"type": "custom", "name": "c"}]}, "tools[0].type"),
            ({"tools": [{"name": "f"}]}, "tools[0].type"),
            (
                {"tools": [{"type": "function", "name": "f", "defer_loading": True}]},
                "tools[0].defer_loading",
            ),
            (
                {"tools": [{"type": "function", "name": "f", "allowed_callers": ["programmatic"]}]},
                "tools[0].allowed_callers",
            ),
            ({"background": True}, "background"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"prompt": {"id": "p"}}, "prompt"),
            ({"moderation": {"model": "m"}}, "moderation"),
            ({"context_management": [{"type": "compaction"}]}, "context_management"),
            ({"truncation": "auto"}, "truncation"),
            ({"include": ["web_search_call.results"]}, "include[0]"),
            ({"include": ["reasoning.encrypted_content", "nonsense"]}, "include[1]"),
            ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
            ({"reasoning": {"generate_summary": "concise"}}, "reasoning.summary"),
            ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
            ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
            (
                {"stream_options": {"include_obfuscation": True}},
                "stream_options.include_obfuscation",
            ),
            ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
            ({"input": [{"type": "compaction_trigger"}]}, "input[0].type"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
                "input[0].content[0].type",
            ),
            ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ],
    )
    def test_what_this_model_cannot_do_is_named(self, members, param):
        with pytest.raises(Unmappable) as refused:
            request(**members)

        assert refused.value.extra["param"] == param

    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"input": 5}, "input"),
            ({"input": [5]}, "input[0]"),
            ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
            ({"input": [{"role": "user"}]}, "input[0]"),
            ({"input": [{}]}, "input[0]"),
            (
                {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
                "input[0].content[0].type",
            ),
            (
                {"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]},
                "input[0].content[0].type",
            ),
            ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0]"),
            (
                {"input": [{"type": "function_call_output", "call_id": None, "output": ""}]},
                "input[0].call_id",
            ),
            ({"instructions": ["x"]}, "instructions"),
            ({"temperature": "hot"}, "temperature"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"top_logprobs": -1}, "top_logprobs"),
            ({"tools": [{"type": "function"}]}, "tools[0]"),
            ({"tools": {}}, "tools"),
            ({"tool_choice": "sometimes"}, "tool_choice"),
            ({"metadata": {"a": 1}}, "metadata[...]"),
            ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
            ({"messages": []}, "messages"),
            ({"max_tokens": 5}, "max_tokens"),
            ({"n": 2}, "n"),
            ({"model": None}, "model"),
        ],
    )
    def test_what_is_not_of_the_api_is_named(self, members, param):
        with pytest.raises(BadEnvelope) as refused:
            request(**members)

        assert refused.value.extra["param"] == param

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b'{"input":"\xff"}',
            b'{"further":"\xff"}',
            b'{"input":"\\udc00"}',
            b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"input":[{"type":"reasoning","summary":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
            b'{"temperature":1e999}',
        ],
        ids=lambda body: body[:20],
    )
    def test_what_is_no_request_is_refused(self, body):
        with pytest.raises(BadEnvelope):
            read_responses(body)

    @pytest.mark.parametrize(
        "members",
        [
            {"include": ["message.output_text.logprobs", "message.input_image.image_url"]},
            {"reasoning": {"summary": "auto", "context": "auto", "mode": "standard"}},
            {"background": False, "truncation": "disabled", "conversation": None, "prompt": None},
            {"stream_options": {"include_obfuscation": False}},
            {"max_tool_calls": 3, "metadata": {}, "previous_response_id": ""},
        ],
    )
    def test_what_loses_nothing_is_taken(self, members):
        assert request(**members).items


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["message", "function", "function_call", "input_text", "user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "name", "id", "call_id", "output"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


class TestAnyRequest:
    @settings(max_examples=300, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from([*Members.__struct_fields__, "top_k"]), json_values, max_size=6
        )
    )
    def test_is_refused_by_name_or_becomes_a_chat_completion(self, members):
        try:
            chat = json.loads(chat_request(read_responses(json.dumps(members).encode())))
        except Invalid:
            return

        assert chat["messages"]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(json_values, max_size=4))
    def test_items_are_refused_by_name_or_become_messages(self, items):
        refusal = None
        try:
            chat_request(request(input=items))
        except Invalid as refused:
            refusal = refused

        assert refusal is None or refusal.extra["param"].startswith("input")
