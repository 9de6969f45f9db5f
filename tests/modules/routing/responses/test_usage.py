"""What a response used: as we write it, and as it is read where a server speaks the API itself."""

import json

import msgspec
import pytest

from app.modules.routing.domain.answers import Tokens, read_answer
from app.modules.routing.domain.responses.usage import ResponsesUsage
from app.modules.routing.domain.streams import StreamReader

USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 4},
    "total_tokens": 29,
}


class TestOf:
    def test_says_every_detail(self):
        written = ResponsesUsage.of(
            Tokens(input=20, output=9, cached=16, cache_write=0, reasoning=4)
        )

        assert msgspec.to_builtins(written) == USAGE

    def test_what_was_not_told_is_none(self):
        written = ResponsesUsage.of(Tokens(input=20))

        assert (written.total_tokens, written.output_tokens_details.reasoning_tokens) == (20, 0)


class TestNative:
    def test_a_whole_response_tells_its_usage(self):
        part = read_answer(json.dumps({"object": "response", "usage": USAGE}).encode())

        told = part.tokens
        assert (told.input, told.output, told.cached, told.reasoning) == (20, 9, 16, 4)

    def test_a_whole_response_that_failed_tells_its_error(self):
        error = {"code": "server_error", "message": "Broken."}

        part = read_answer(json.dumps({"status": "failed", "error": error}).encode())

        assert json.loads(part.error) == error

    @pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
    def test_a_streams_last_event_tells_its_usage(self, status):
        reader = StreamReader("responses")
        data = {"type": f"response.{status}", "response": {"usage": USAGE}}

        reader.feed(b"event: x\ndata: " + json.dumps(data).encode() + b"\n\n")

        told = reader.tokens
        assert (told.input, told.output, told.cached, told.reasoning) == (20, 9, 16, 4)
        assert reader.is_done
