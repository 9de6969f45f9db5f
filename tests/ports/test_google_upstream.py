"""The Gemini API behind OpenAI's formats, against a real server that plays it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from app.kernel.errors import BadUpstream
from app.modules.routing.adapters.aiohttp import AiohttpClient
from app.modules.routing.adapters.google import GoogleUpstream, model_path
from app.modules.routing.domain.answers import Tokens
from app.modules.routing.domain.faults import UpstreamNonsense, UpstreamUnreachable
from app.modules.routing.domain.names import ModelNotFound
from app.modules.routing.domain.streams import StreamReader
from app.modules.routing.domain.unmappable import Unmappable
from app.modules.routing.ports import Answer, AnswerStream, Ask
from tests.waiting import until

FIXTURES = Path(__file__).parents[1] / "fixtures" / "google"
ANSWER = (FIXTURES / "answers" / "plain.google.json").read_bytes()
STREAM = (FIXTURES / "streams" / "plain.google.sse").read_bytes()
QUOTA = (FIXTURES / "errors" / "429_quota.google.json").read_bytes()
PAGES = {
    "": {
        "models": [
            {"name": "models/gemini-a", "supportedGenerationMethods": ["generateContent"]},
            {"name": "models/imagen", "supportedGenerationMethods": ["predict"]},
        ],
        "nextPageToken": "a/b=",
    },
    "a/b=": {
        "models": [
            {"name": "models/embedding-b", "supportedGenerationMethods": ["embedContent"]},
            {"name": "tunedModels/mine", "supportedGenerationMethods": ["generateContent"]},
        ]
    },
}


class Google:
    """Remembers what it was asked, and plays the model of that name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.bodies: list[dict] = []
        self.cut = 0
        self.base_url = ""
        self.is_listing = True

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.keys.append(request.headers.get("x-goog-api-key", ""))
        if request.method == "GET":
            return self._page(request)
        self.bodies.append(await request.json())
        model, _, method = request.path.rpartition("/")[2].partition(":")
        if model == "busy":
            return web.Response(status=429, body=QUOTA, content_type="application/json")
        if model == "garbage":
            return web.Response(text="<html>not what you asked for</html>")
        if method == "batchEmbedContents":
            return web.json_response({"embeddings": [{"values": [0.5]}]})
        if method == "generateContent":
            return web.Response(body=ANSWER, content_type="application/json")
        return await self._stream(model, request)

    def _page(self, request: web.Request) -> web.Response:
        if not self.is_listing:
            return web.Response(status=403)
        return web.json_response(PAGES[request.query.get("pageToken", "")])

    async def _stream(self, model: str, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if model == "dies":
            await response.write(STREAM[:200])
            assert request.transport is not None
            request.transport.abort()
        elif model == "slow":
            await response.write(STREAM[: STREAM.index(b"\r\n\r\n") + 4])
            try:
                await asyncio.Event().wait()
            finally:
                self.cut += 1
        else:
            await response.write(STREAM)
        return response


@asynccontextmanager
async def playing() -> AsyncIterator[Google]:
    google = Google()
    app = web.Application()
    app.router.add_route("*", "/v1beta/{rest:.*}", google.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    google.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1beta"
    try:
        yield google
    finally:
        await runner.cleanup()


@pytest.fixture
async def google():
    async with playing() as found:
        yield found


@pytest.fixture
async def upstream(google):
    client = AiohttpClient("google", google.base_url, answer_limit_bytes=100_000, max_connections=9)
    upstream = GoogleUpstream("google", client, "list-key")
    yield upstream
    await upstream.close()


def ask(model: str = "gemini-2.5-flash", surface: str = "chat/completions", **more) -> Ask:
    said = {"messages": [{"role": "user", "content": "hello"}]}
    body = {"model": model, **(said if surface == "chat/completions" else {}), **more}
    return Ask(surface, model, json.dumps(body).encode(), "call-key")


async def collect(stream: Answer | AnswerStream) -> bytes:
    assert isinstance(stream, AnswerStream)
    return b"".join([chunk async for chunk in stream.chunks])


class TestPost:
    async def test_asks_at_the_models_own_path_with_the_key_in_a_header(self, google, upstream):
        await upstream.post(ask())

        assert google.asked == ["/v1beta/models/gemini-2.5-flash:generateContent"]
        assert google.keys == ["call-key"]

    async def test_asks_and_answers_in_each_others_words(self, google, upstream):
        answer = await upstream.post(ask())

        assert google.bodies == [{"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}]
        found = json.loads(answer.body)
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert found["choices"][0]["message"]["content"] == "Hello, you."
        assert found["created"] > 0

    async def test_hands_an_error_over_with_the_wait_that_google_asks_for(self, upstream):
        answer = await upstream.post(ask("busy"))

        assert (answer.status, answer.retry_after) == (429, "35")
        assert json.loads(answer.body)["error"]["type"] == "rate_limit_error"

    async def test_asks_for_vectors_at_their_own_path(self, google, upstream):
        answer = await upstream.post(ask("gemini-embedding-001", "embeddings", input=["a"]))

        assert google.asked == ["/v1beta/models/gemini-embedding-001:batchEmbedContents"]
        assert json.loads(answer.body)["data"][0]["embedding"] == [0.5]

    async def test_hands_an_error_over_when_asked_for_vectors(self, upstream):
        answer = await upstream.post(ask("busy", "embeddings", input="a"))

        assert json.loads(answer.body)["error"]["code"] == "rate_limit_exceeded"

    async def test_knows_what_is_no_answer(self, upstream):
        with pytest.raises(UpstreamNonsense):
            await upstream.post(ask("garbage"))

    async def test_sends_nothing_that_cannot_be_asked(self, google, upstream):
        with pytest.raises(Unmappable):
            await upstream.post(ask(logit_bias={"1": 1}))

        assert google.asked == []


class TestStream:
    async def test_is_translated_to_its_end(self, google, upstream):
        reader = StreamReader("chat/completions")

        reader.feed(await collect(await upstream.stream(ask(stream=True))))

        assert google.asked == ["/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"]
        assert reader.tokens == Tokens(4, 6, 0, None, 0, 0, 0)
        assert reader.is_done

    async def test_hands_an_error_over_whole(self, upstream):
        answer = await upstream.stream(ask("busy", stream=True))

        assert isinstance(answer, Answer)
        assert (answer.status, answer.retry_after) == (429, "35")

    async def test_hands_vectors_over_whole(self, upstream):
        answer = await upstream.stream(ask("gemini-embedding-001", "embeddings", input="a"))

        assert isinstance(answer, Answer)
        assert answer.status == 200

    async def test_reports_a_death_in_the_middle(self, upstream):
        stream = await upstream.stream(ask("dies", stream=True))

        with pytest.raises(UpstreamUnreachable):
            await collect(stream)

    async def test_closing_cuts_the_upstream(self, google, upstream):
        stream = await upstream.stream(ask("slow", stream=True))
        assert isinstance(stream, AnswerStream)
        await anext(stream.chunks)

        await stream.close()

        await until(lambda: google.cut == 1)


class TestModels:
    async def test_lists_what_can_be_asked_over_all_pages(self, google, upstream):
        found = await upstream.models()

        assert found == ["gemini-a", "embedding-b", "tunedModels/mine"]
        assert google.asked[1] == "/v1beta/models?pageSize=1000&pageToken=a%2Fb%3D"
        assert google.keys == ["list-key", "list-key"]

    async def test_reports_a_refusal(self, google, upstream):
        google.is_listing = False

        with pytest.raises(BadUpstream, match="google answered 403 for its models"):
            await upstream.models()


class TestModelPath:
    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            ("gemini-2.5-flash", "models/gemini-2.5-flash"),
            ("models/gemini-2.5-flash", "models/gemini-2.5-flash"),
            ("tunedModels/mine_1", "tunedModels/mine_1"),
        ],
    )
    def test_names_the_place_of_a_model(self, model, expected):
        assert model_path(model) == expected

    @pytest.mark.parametrize(
        "model",
        [
            "",
            "..",
            "../files",
            "models/../files",
            "models/a/b",
            "a%2F..",
            "a:deleteModel",
            "a?key=x",
            "a#b",
            "a b",
            "a\n",
            "é",
            "x" * 201,
        ],
    )
    def test_leads_nowhere_else(self, model):
        with pytest.raises(ModelNotFound):
            model_path(model)
