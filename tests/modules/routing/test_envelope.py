"""The envelope of a request."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.routing.domain.envelope import (
    ROUTING_MEMBERS,
    BadEnvelope,
    Envelope,
    asking_for_usage,
    read_envelope,
    with_model,
    without,
)

# Members that the envelope knows have types of their own.
OTHERS = st.text().filter(lambda name: name not in Envelope.__struct_fields__)


class TestReadEnvelope:
    def test_takes_model_and_stream_and_ignores_the_rest(self):
        envelope = read_envelope(b'{"x":[{"model":"no"}],"model":"m","stream":true,"n":1}')

        assert (envelope.model, envelope.stream) == ("m", True)

    def test_accepts_a_null_stream(self):
        assert not read_envelope(b'{"model":"m","stream":null}').stream

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"model"',
            b'{"model":7}',
            b'{"model":null}',
            b'{"model":"m","models":"a"}',
            b'{"model":"m","messages":[ ]}',
            b'{"model":"m","max_tokens":"many"}',
            b'{"model":"m","max_tokens":-5}',
            b'{"model":"m","temperature":"hot"}',
            b'{"model":"m","tools":"all"}',
            b'{"models":' + b"[" + b'"m",' * 20 + b'"m"]}',
            b'{"model":"m","stream":"yes"}',
            b'{"model":"m"} trailing',
            b'{"model":"\xff"}',
            b'{"model":"m","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        ],
    )
    def test_refuses_what_no_client_sends(self, body):
        with pytest.raises(BadEnvelope):
            read_envelope(body)


class TestWithModel:
    def test_touches_no_other_byte(self):
        body = b'{ "model" : "alias" ,\n "messages":[{"role":"user","content":"\\u00e9 \\n"}] }'

        assert with_model(body, "real") == body.replace(b'"alias"', b'"real"')

    def test_is_not_fooled_by_a_nested_model_that_stands_first(self):
        body = b'{"metadata":{"model":"alias"},"model":"alias","x":1.10}'

        changed = msgspec.json.decode(with_model(body, "real"))

        assert changed == {"metadata": {"model": "alias"}, "model": "real", "x": 1.1}

    @given(st.text(min_size=1), st.dictionaries(OTHERS, st.text(), max_size=4), st.text())
    def test_sets_the_model_and_keeps_everything_else(self, model, members, new):
        body = msgspec.json.encode({**members, "model": model})
        expected = {**members, "model": new}

        assert msgspec.json.decode(with_model(body, new)) == expected


class TestNames:
    def test_the_models_to_try_begin_with_the_model(self):
        envelope = read_envelope(b'{"model":"a","models":["b","a","c"]}')

        assert envelope.names == ["a", "b", "c"]

    def test_models_alone_are_enough(self):
        assert read_envelope(b'{"models":["b","c"]}').names == ["b", "c"]

    def test_without_any_there_are_none(self):
        assert read_envelope(b"{}").names == []


class TestOutputLimit:
    def test_the_newer_member_goes_before_the_older(self):
        envelope = read_envelope(b'{"model":"m","max_tokens":5,"max_completion_tokens":7}')

        assert envelope.output_limit(100) == 7

    def test_each_choice_may_be_as_long(self):
        assert read_envelope(b'{"model":"m","max_tokens":5,"n":3}').output_limit(100) == 15

    def test_an_unlimited_answer_counts_as_said(self):
        assert read_envelope(b'{"model":"m"}').output_limit(100) == 100


class TestConversation:
    def test_the_session_goes_before_the_cache_key_and_the_user(self):
        body = b'{"model":"m","user":"u","prompt_cache_key":"p","session_id":"s"}'

        assert read_envelope(body).conversation == b'"s"'

    @pytest.mark.parametrize("body", [b'{"model":"m"}', b'{"model":"m","user":null}'])
    def test_nothing_marks_it_where_nothing_is_said(self, body):
        assert read_envelope(body).conversation == b""


class TestAskingForUsage:
    def test_touches_no_other_byte_where_nothing_was_said_of_it(self):
        body = b' { "model":"m",\n"x":1.10}'

        asked = asking_for_usage(body, read_envelope(body))

        assert asked == b'{"stream_options":{"include_usage":true}, "model":"m",\n"x":1.10}'

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (None, {"include_usage": True}),
            ({"include_usage": False}, {"include_usage": True}),
            ({"other": [1]}, {"other": [1], "include_usage": True}),
        ],
    )
    def test_keeps_what_else_was_said(self, options, expected):
        body = msgspec.json.encode({"model": "m", "stream_options": options, "x": 1})

        asked = msgspec.json.decode(asking_for_usage(body, read_envelope(body)))

        assert asked == {"model": "m", "stream_options": expected, "x": 1}


class TestWithout:
    def test_takes_out_what_strict_servers_refuse_and_nothing_else(self):
        body = b'{"model":"m","models":["a"],"provider":{"sort":"price"},"x":{"models":1}}'

        assert without(body, ROUTING_MEMBERS) == b'{"model":"m","x":{"models":1}}'
