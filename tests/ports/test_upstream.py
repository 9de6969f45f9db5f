"""Upstreams that speak OpenAI's wire format, against a real server, and the built-in echo."""

import json

import pytest

from app.kernel.errors import BadUpstream
from app.modules.routing.adapters.aiohttp import AiohttpClient
from app.modules.routing.adapters.echo import EchoUpstream
from app.modules.routing.adapters.openai import OpenAIUpstream
from app.modules.routing.ports import Answer, AnswerStream, Ask
from tests.scripted_upstream import MODELS, scripted_upstream

SURFACES = frozenset({"chat/completions", "embeddings"})


@pytest.fixture
async def server():
    async with scripted_upstream() as played:
        yield played


@pytest.fixture
async def upstream(server):
    client = AiohttpClient(
        "mock", server.base_url, answer_limit_bytes=1_000_000, max_connections=50
    )
    upstream = OpenAIUpstream("mock", client, SURFACES, "sk-list")
    yield upstream
    await upstream.close()


def ask(model: str, surface: str = "chat/completions", key: str = "", **more) -> Ask:
    body = json.dumps({"model": model, "messages": [], **more}).encode()
    return Ask(surface, model, body, key)


async def collect(stream: AnswerStream) -> bytes:
    return b"".join([chunk async for chunk in stream.chunks])


class TestOpenAI:
    async def test_sends_the_bytes_as_they_are_and_the_key_of_the_call(self, server, upstream):
        sent = b'{ "model":"good",\n"messages":[], "odd":1.10 }'

        answer = await upstream.post(Ask("chat/completions", "good", sent, "sk-secret"))

        assert server.bodies == [sent]
        assert server.authorizations == ["Bearer sk-secret"]
        assert json.loads(answer.body)["usage"]["total_tokens"] == 12

    async def test_sends_no_key_where_there_is_none(self, server, upstream):
        await upstream.post(ask("good"))

        assert server.authorizations == [""]

    async def test_asks_each_surface_at_its_own_path(self, upstream):
        answer = await upstream.post(ask("good", "embeddings", input="x"))

        assert json.loads(answer.body)["object"] == "list"

    async def test_yields_events_untouched(self, upstream):
        stream = await upstream.stream(ask("good", stream=True))

        assert isinstance(stream, AnswerStream)
        events = await collect(stream)
        assert events.endswith(b"data: [DONE]\n\n")
        assert events.count(b"data: ") == 3

    async def test_hands_an_error_over_whole(self, upstream):
        answer = await upstream.stream(ask("error-500", stream=True))

        assert isinstance(answer, Answer)
        assert answer.status == 500

    async def test_lists_what_the_server_offers(self, upstream):
        assert await upstream.models() == list(MODELS)

    async def test_refuses_a_list_in_no_known_form(self, server, upstream):
        server.models = [{"not": "a name"}]

        with pytest.raises(BadUpstream, match="no known form"):
            await upstream.models()


class TestEcho:
    async def test_answers_the_same_thing_twice(self):
        asked = ask("echo", messages=[{"role": "user", "content": "say it"}])

        first = await EchoUpstream().post(asked)
        second = await EchoUpstream().post(asked)

        assert first == second
        answer = json.loads(first.body)
        assert answer["choices"][0]["message"]["content"] == "Echo: say it"
        assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}

    async def test_streams_the_same_words(self):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        asked = ask("echo", messages=[{"role": "user", "content": "a b"}], **options)

        stream = await EchoUpstream().stream(asked)

        lines = [line[6:] for line in (await collect(stream)).split(b"\n\n") if line]
        chunks = [json.loads(line) for line in lines[:-1]]
        words = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
        assert lines[-1] == b"[DONE]"
        assert "".join(words) == "Echo: a b"
        assert chunks[-1]["usage"]["total_tokens"] == 5

    async def test_gives_equal_texts_equal_unit_vectors(self):
        asked = ask("echo", "embeddings", input=["a", "b", "a"])

        answer = json.loads((await EchoUpstream().post(asked)).body)

        vectors = [item["embedding"] for item in answer["data"]]
        assert vectors[0] == vectors[2] != vectors[1]
        assert sum(value * value for value in vectors[0]) == pytest.approx(1)

    async def test_refuses_what_it_cannot_read(self):
        answer = await EchoUpstream().post(
            Ask("chat/completions", "echo", b'{"model":"echo","messages":3}')
        )

        assert answer.status == 400
