"""Server-sent events, from bytes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_spine import APIError
from ai_spine._sse import EVENT_MAX_BYTES, Message, Parser

STREAM = (
    b"\xef\xbb\xbfid: 1\nevent: status\ndata: {}\n\n: keep-alive\n\n"
    b"id: 2\r\ndata: first\r\ndata:second\r\n\r\n"
    b"event: node\rdata\r\rretry: 1500\nid: 3\n\n"
    b"data: \xe2\x98\x83\nunknown: x\n\nid: 4\ndata: not finished"
)
MESSAGES = [
    Message("status", "{}", "1"),
    Message("message", "first\nsecond", "2"),
    Message("node", "", "2"),
    Message("message", "\N{SNOWMAN}", "3"),
]


def read(stream: bytes, parser: Parser | None = None) -> list[Message]:
    return (parser or Parser()).feed(stream)


class TestParser:
    def test_reads_a_stream(self):
        assert read(STREAM) == MESSAGES

    @given(st.lists(st.integers(0, len(STREAM)), max_size=12))
    def test_does_not_mind_how_it_is_cut(self, cuts):
        parser = Parser()
        edges = [0, *sorted(cuts), len(STREAM)]

        pieces = [STREAM[a:b] for a, b in pairwise(edges)]
        messages = [message for piece in pieces for message in parser.feed(piece)]

        assert messages == MESSAGES

    @given(st.binary(max_size=200))
    def test_survives_any_bytes(self, stream):
        Parser().feed(stream)

    def test_goes_on_behind_the_last_event_that_was_whole(self):
        parser = Parser()
        read(b"id: 7\ndata: x\n\nid: 8\ndata: y\n", parser)

        assert parser.last_id == "7"

    @pytest.mark.parametrize("bad", [b"a b", b"\x00", "\N{SNOWMAN}".encode(), b"x" * 256])
    def test_takes_no_id_that_a_header_cannot_carry(self, bad):
        parser = Parser("5")
        read(b"id: " + bad + b"\ndata: x\n\n", parser)

        assert parser.last_id == "5"

    def test_listens_when_it_is_told_how_long_to_wait(self):
        parser = Parser()
        read(b"retry: 1500\n", parser)
        assert parser.retry_s == 1.5
        read(b"retry: " + b"9" * 30 + b"\n", parser)
        assert parser.retry_s == 60.0
        read(b"retry: soon\n", parser)
        assert parser.retry_s == 60.0

    @pytest.mark.parametrize("piece", [b"x" * 1_000_000, b"data: " + b"x" * 999_993 + b"\n"])
    def test_refuses_an_event_without_an_end(self, piece):
        parser = Parser()

        with pytest.raises(APIError, match="larger"):
            [parser.feed(piece) for _ in range(EVENT_MAX_BYTES // len(piece) + 2)]

    def test_has_no_limit_for_many_small_ones(self):
        parser = Parser()
        piece = b"data: x\n\n" * 100_000

        count = sum(len(parser.feed(piece)) for _ in range(3))

        assert count == 300_000
