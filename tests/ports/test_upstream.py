"""Upstreams: the HTTP client against a real server that behaves in every way it can."""

import asyncio
import json
import socket

import pytest

from app.kernel.errors import BadUpstream
from app.modules.routing.adapters.echo import EchoUpstream
from app.modules.routing.adapters.http import (
    AnswerTooLarge,
    HttpOptions,
    HttpUpstream,
    UpstreamSilent,
    UpstreamUnreachable,
)
from app.modules.routing.ports import Answer, AnswerStream
from tests.scripted_upstream import MODELS, scripted_upstream
from tests.waiting import until

OPTIONS = HttpOptions(
    connect_timeout_s=0.5, read_timeout_s=0.3, answer_limit_bytes=1_000_000, max_connections=50
)


@pytest.fixture
async def server():
    async with scripted_upstream() as played:
        yield played


@pytest.fixture
async def upstream(server):
    upstream = HttpUpstream("mock", server.base_url, "sk-secret", OPTIONS)
    yield upstream
    await upstream.close()


def body(model: str, **more) -> bytes:
    return json.dumps({"model": model, "messages": [], **more}).encode()


async def collect(stream: AnswerStream) -> bytes:
    return b"".join([chunk async for chunk in stream.chunks])


class TestPost:
    async def test_sends_the_bytes_as_they_are_and_the_key(self, server, upstream):
        sent = b'{ "model":"good",\n"messages":[], "odd":1.10 }'

        answer = await upstream.post("chat/completions", sent)

        assert server.bodies == [sent]
        assert server.authorizations == ["Bearer sk-secret"]
        assert (answer.status, answer.content_type.split(";")[0]) == (200, "application/json")
        assert json.loads(answer.body)["usage"]["total_tokens"] == 12

    async def test_hands_an_error_over_with_its_retry_after(self, upstream):
        answer = await upstream.post("chat/completions", body("error-429"))

        assert (answer.status, answer.retry_after) == (429, "3")

    async def test_follows_no_redirect(self, upstream):
        answer = await upstream.post("chat/completions", body("redirects"))

        assert answer.status == 302

    async def test_gives_up_on_a_silent_server(self, upstream):
        with pytest.raises(UpstreamSilent, match=r"mock did not answer within 0\.3 s"):
            await upstream.post("chat/completions", body("hangs"))

    async def test_reports_a_broken_connection_without_the_address(self, server, upstream):
        with pytest.raises(UpstreamUnreachable) as caught:
            await upstream.post("chat/completions", body("dies-plain"))

        assert "127.0.0.1" not in str(caught.value)

    async def test_reports_a_server_that_is_not_there(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            upstream = HttpUpstream("gone", f"http://127.0.0.1:{port}/v1", "", OPTIONS)

            with pytest.raises(UpstreamUnreachable, match="gone cannot be reached"):
                await upstream.post("chat/completions", body("good"))

        await upstream.close()

    async def test_refuses_an_answer_over_the_limit(self, upstream):
        with pytest.raises(AnswerTooLarge):
            await upstream.post("chat/completions", body("huge"))

    async def test_cancelling_cuts_the_upstream(self, server, upstream):
        call = asyncio.create_task(upstream.post("chat/completions", body("slow")))
        await until(lambda: server.open == 1)

        call.cancel()

        await until(lambda: server.cut == 1)
        assert (await upstream.post("chat/completions", body("good"))).status == 200

    async def test_keeps_answering_after_failures(self, upstream):
        for model in ("dies-plain", "hangs"):
            with pytest.raises((UpstreamUnreachable, UpstreamSilent)):
                await upstream.post("chat/completions", body(model))

        assert (await upstream.post("chat/completions", body("good"))).status == 200


class TestStream:
    async def test_yields_the_events_untouched(self, upstream):
        stream = await upstream.stream("chat/completions", body("good", stream=True))

        assert isinstance(stream, AnswerStream)
        events = await collect(stream)
        assert events.endswith(b"data: [DONE]\n\n")
        assert events.count(b"data: ") == 3

    async def test_hands_an_error_over_whole(self, upstream):
        answer = await upstream.stream("chat/completions", body("error-500", stream=True))

        assert isinstance(answer, Answer)
        assert answer.status == 500

    async def test_reports_a_death_in_the_middle(self, upstream):
        stream = await upstream.stream("chat/completions", body("dies-streaming", stream=True))

        with pytest.raises(UpstreamUnreachable):
            await collect(stream)

    async def test_gives_up_on_silence_in_the_middle(self, upstream):
        stream = await upstream.stream("chat/completions", body("hangs-streaming", stream=True))

        with pytest.raises(UpstreamSilent):
            await collect(stream)

    async def test_closing_cuts_the_upstream(self, server, upstream):
        stream = await upstream.stream("chat/completions", body("slow", stream=True))
        await anext(stream.chunks)

        await stream.close()

        await until(lambda: server.cut == 1)


class TestModels:
    async def test_lists_what_the_server_offers(self, upstream):
        assert await upstream.models() == list(MODELS)

    async def test_refuses_a_list_in_no_known_form(self, server, upstream):
        server.models = [{"not": "a name"}]

        with pytest.raises(BadUpstream, match="no known form"):
            await upstream.models()


class TestEcho:
    async def test_answers_the_same_thing_twice(self):
        asked = body("echo", messages=[{"role": "user", "content": "say it"}])

        first = await EchoUpstream().post("chat/completions", asked)
        second = await EchoUpstream().post("chat/completions", asked)

        assert first == second
        answer = json.loads(first.body)
        assert answer["choices"][0]["message"]["content"] == "Echo: say it"
        assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}

    async def test_streams_the_same_words(self):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        asked = body("echo", messages=[{"role": "user", "content": "a b"}], **options)

        stream = await EchoUpstream().stream("chat/completions", asked)

        lines = [line[6:] for line in (await collect(stream)).split(b"\n\n") if line]
        chunks = [json.loads(line) for line in lines[:-1]]
        words = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
        assert lines[-1] == b"[DONE]"
        assert "".join(words) == "Echo: a b"
        assert chunks[-1]["usage"]["total_tokens"] == 5

    async def test_gives_equal_texts_equal_unit_vectors(self):
        asked = json.dumps({"model": "echo", "input": ["a", "b", "a"]}).encode()

        answer = json.loads((await EchoUpstream().post("embeddings", asked)).body)

        vectors = [item["embedding"] for item in answer["data"]]
        assert vectors[0] == vectors[2] != vectors[1]
        assert sum(value * value for value in vectors[0]) == pytest.approx(1)

    async def test_refuses_what_it_cannot_read(self):
        answer = await EchoUpstream().post("chat/completions", b'{"model":"echo","messages":3}')

        assert answer.status == 400
