"""A model's event stream on its way through, and whole answers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.modules.routing.domain.answers import Tokens, read_answer, read_message
from app.modules.routing.domain.events import EVENT_LIMIT_BYTES, Event, EventReader
from app.modules.routing.domain.faults import AnswerTooLarge
from app.modules.routing.domain.streams import StreamReader, error_event, output_estimate

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
WORD = 'data: {"choices":[{"index":0,"delta":{"content":"h\u00e9"}}],"usage":null}\n\n'.encode()
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"boom"}}\r\n\r\n'
QUOTE = b'data: {"choices":[{"delta":{"content":"\\"usage\\" [DONE]"}}],"usage" : null}\n\n'
EVENTS = [ROLE, WORD, STOP, USAGE, DONE, ERROR, QUOTE, b": waiting\n\n"]
CHAT = ROLE + WORD + WORD + STOP + USAGE + DONE

RESPONSES = (
    b'event: response.created\ndata: {"type":"response.created","response":{"usage":null}}\n\n'
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","delta":"a"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":'
    b'{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":5,'
    b'"output_tokens_details":{"reasoning_tokens":2}}}}\n\n'
)
MESSAGES = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3,'
    b'"cache_read_input_tokens":5,"cache_creation_input_tokens":7,"output_tokens":1}}}\n\n'
    b'event: ping\ndata: {"type":"ping"}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":11}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def passed(reader: StreamReader, stream: bytes, size: int) -> bytes:
    return b"".join(reader.feed(piece) for piece in pieces(stream, size)) + reader.finish()


class TestChatStream:
    @pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
    @pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
    def test_passes_every_byte_however_it_is_cut(self, size, line_end):
        stream = (b": hello\n\n" + CHAT).replace(b"\n", line_end)
        reader = StreamReader("chat/completions")

        assert passed(reader, stream, size) == stream
        assert reader.is_done
        assert reader.tokens == Tokens(3, 2)

    @pytest.mark.parametrize("size", [1, 7, 10_000])
    def test_keeps_the_usage_back_that_only_we_asked_for(self, size):
        reader = StreamReader("chat/completions", strips_usage=True)

        assert passed(reader, CHAT, size) == CHAT.replace(USAGE, b"")
        assert reader.tokens == Tokens(3, 2)

    def test_keeps_no_usage_back_that_comes_with_the_last_words(self):
        last = STOP.replace(b"}]}", b'}],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
        reader = StreamReader("chat/completions", strips_usage=True)

        assert passed(reader, WORD + last + DONE, 10_000) == WORD + last + DONE

    def test_hands_on_whole_events_only(self):
        reader = StreamReader("chat/completions")

        first = reader.feed(ROLE + WORD[:20])
        second = reader.feed(WORD[20:])

        assert (first, second) == (ROLE, WORD)

    def test_a_role_is_no_content_and_a_word_is(self):
        reader = StreamReader("chat/completions")

        reader.feed(ROLE)
        before = reader.has_content
        reader.feed(WORD)

        assert (before, reader.has_content) == (False, True)

    @pytest.mark.parametrize(
        "delta",
        [
            {"tool_calls": [{"index": 0}]},
            {"reasoning_content": "hm"},
            {"reasoning": "hm"},
            {"refusal": "no"},
            {"audio": {"id": "a"}},
        ],
    )
    def test_whatever_the_model_says_is_content(self, delta):
        reader = StreamReader("chat/completions")

        reader.feed(b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n")

        assert reader.has_content

    def test_finds_an_error_inside_the_stream(self):
        reader = StreamReader("chat/completions")

        reader.feed(WORD + b'data: {"error":{"message":"boom"}}\n\n' + DONE)

        assert json.loads(reader.error) == {"message": "boom"}
        assert reader.is_done

    def test_a_word_about_usage_is_not_usage(self):
        word = json.dumps(
            {"choices": [{"delta": {"content": '"usage":{"prompt_tokens":1} [DONE]'}}]}
        )
        reader = StreamReader("chat/completions")

        reader.feed(WORD + f"data: {word}\n\n".encode())

        assert (reader.tokens, reader.is_done) == (None, False)

    def test_an_end_without_its_empty_line_is_an_end(self):
        reader = StreamReader("chat/completions")

        reader.feed(WORD + b"data: [DONE]\n")
        rest = reader.finish()

        assert rest.startswith(b"data: [DONE]")
        assert reader.is_done

    def test_joins_data_of_several_lines(self):
        reader = StreamReader("chat/completions")

        reader.feed(b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":8}}\n\n')

        assert reader.tokens == Tokens(8)

    def test_an_event_without_end_is_cut(self):
        reader = StreamReader("chat/completions")

        with pytest.raises(AnswerTooLarge):
            passed(reader, b"x" * (EVENT_LIMIT_BYTES + 2), 1_000_000)

    @given(st.lists(st.sampled_from(EVENTS), max_size=12), st.integers(1, 700))
    def test_learns_the_same_however_it_is_cut(self, events, size):
        cut = StreamReader("chat/completions", strips_usage=True)
        whole = StreamReader("chat/completions", strips_usage=True)
        stream = b"".join(events)

        assert passed(cut, stream, size) == b"".join(e for e in events if e != USAGE)
        for event in events:
            whole.feed(event)

        found = [
            (reader.tokens, reader.error, reader.has_content, reader.is_done)
            for reader in (cut, whole)
        ]
        assert found[0] == found[1]
        assert cut.output_estimate == whole.output_estimate

    @given(st.binary(max_size=300), st.integers(1, 50))
    def test_never_fails_on_noise_and_loses_none_of_it(self, noise, size):
        stream = noise.replace(b"\r", b"") + b"\n\n"
        reader = StreamReader("chat/completions")

        assert passed(reader, stream, size).rstrip(b"\n") == stream.rstrip(b"\n")


class TestUsageShapes:
    @pytest.mark.parametrize("size", [1, 13, 10_000])
    def test_responses_tell_it_with_their_last_event(self, size):
        reader = StreamReader("responses")

        assert passed(reader, RESPONSES, size) == RESPONSES
        assert reader.tokens == Tokens(9, 5, cached=4, reasoning=2)
        assert reader.is_done

    @pytest.mark.parametrize("size", [1, 13, 10_000])
    def test_messages_tell_it_at_both_ends_with_the_cache_beside(self, size):
        reader = StreamReader("messages")

        assert passed(reader, MESSAGES, size) == MESSAGES
        assert reader.tokens == Tokens(15, 11, cached=5, cache_write=7)
        assert reader.is_done

    @pytest.mark.parametrize(
        ("usage", "expected"),
        [
            ({"prompt_tokens": 5, "completion_tokens": 7}, Tokens(5, 7)),
            ({"prompt_tokens": 5, "total_tokens": 5}, Tokens(5)),
            ({"prompt_tokens": 5, "prompt_tokens_details": None}, Tokens(5)),
            (
                {
                    "prompt_tokens": 50,
                    "completion_tokens": 7,
                    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 3},
                    "completion_tokens_details": {"reasoning_tokens": 6, "audio_tokens": 1},
                },
                Tokens(50, 7, 4, None, 6, 3, 1),
            ),
            ({"prompt_tokens": 5, "prompt_cache_hit_tokens": 2}, Tokens(5, cached=2)),
            ({"input_tokens": 5, "output_tokens": 2}, Tokens(5, 2)),
        ],
    )
    def test_openais_and_its_relatives(self, usage, expected):
        part = read_answer(json.dumps({"id": "x", "usage": usage}).encode())

        assert part is not None
        assert part.tokens == expected

    def test_anthropics(self):
        usage = {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 2}

        part = read_message(json.dumps({"usage": usage}).encode())

        assert part is not None
        assert part.tokens == Tokens(5, 4, cached=2)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"usage":', b"[" * 20_000])
    def test_what_is_no_answer_is_known(self, body):
        assert read_answer(body) is None
        assert read_message(body) is None


class TestEstimate:
    def test_counts_an_event_as_a_token_at_the_least(self):
        reader = StreamReader("chat/completions")
        for _ in range(11):
            reader.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')

        assert reader.output_estimate == 11

    def test_counts_the_words_that_come_in_one_piece(self):
        reader = StreamReader("chat/completions")

        reader.feed(ROLE + WORD + WORD + WORD)

        assert reader.output_estimate == 3

    def test_counts_text_that_comes_in_big_pieces(self):
        reader = StreamReader("chat/completions")
        for _ in range(3):
            text = "x" * 4000
            reader.feed(
                b"data: "
                + json.dumps({"choices": [{"delta": {"content": text}}]}).encode()
                + b"\n\n"
            )

        assert 2990 < reader.output_estimate < 3010

    def test_a_whole_answer_counts_its_text_alone(self):
        body = {"id": "x" * 1000, "choices": [{"message": {"content": "a" * 400}}]}

        assert output_estimate(json.dumps(body).encode()) == 100


class TestErrorEvent:
    @pytest.mark.parametrize("surface", ["chat/completions", "messages", "responses"])
    def test_is_an_event_that_its_own_reader_takes_for_an_error(self, surface):
        reader = StreamReader(surface)

        reader.feed(error_event(surface, "it broke", "stream-broken", "r"))

        assert b"it broke" in reader.error


class TestEventReader:
    STREAM = (
        b"\xef\xbb\xbf: c\r\ndata: a\r\ndata: b\r\n\r\n"
        b"event: x\ndata:{1}\nid: 7\n\ndata: [DONE]\n\n"
    )
    EVENTS = (Event(b"a\nb"), Event(b"{1}", b"x"), Event(b"[DONE]"))

    @pytest.mark.parametrize("size", [1, 2, 3, 11, 1000])
    def test_finds_the_same_events_however_they_are_cut(self, size):
        reader = EventReader()

        events = [event for piece in pieces(self.STREAM, size) for event in reader.feed(piece)]

        assert tuple(events) == self.EVENTS
        assert events[-1].is_done

    def test_an_event_without_end_is_cut(self):
        reader = EventReader()

        reader.feed(b"data: " + b"x" * (EVENT_LIMIT_BYTES - 100) + b"\n")

        with pytest.raises(AnswerTooLarge):
            reader.feed(b"data: " + b"x" * 200 + b"\n")
