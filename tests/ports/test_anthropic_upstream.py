"""Anthropic's API as an upstream: the adapter, against a real server that plays it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from aiohttp import web

from app.kernel.errors import BadUpstream
from app.modules.routing.adapters.aiohttp import AiohttpClient
from app.modules.routing.adapters.anthropic import PAGES_LIMIT, AnthropicUpstream
from app.modules.routing.domain.faults import UpstreamNonsense, UpstreamUnreachable
from app.modules.routing.domain.unmappable import Unmappable
from app.modules.routing.ports import Answer, AnswerStream, Ask
from tests.modules.routing.messages.golden import events_of, golden, value_of
from tests.waiting import until

KEY = "sk-ant-secret"
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
FIRST_EVENT = golden("message-text.sse").partition(b"\n\n")[0] + b"\n\n"


class PlayedAnthropic:
    """Answers with what it is given, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.queries: list[str] = []
        self.pages: list[object] = []
        self.answer: Callable[[], web.StreamResponse] = lambda: web.json_response({})
        self.pieces: list[bytes] = []
        self.dies = False
        self.waits = False
        self.cut = 0
        self.released = asyncio.Event()
        self.base_url = ""

    async def models(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        self.queries.append(request.query_string)
        page = self.pages[min(len(self.queries), len(self.pages)) - 1]
        return page() if callable(page) else web.json_response(page)

    async def messages(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        if not self.pieces:
            return self.answer()
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
        if self.dies:
            request.transport.abort()
        try:
            if self.waits:
                await self.released.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        return response


@asynccontextmanager
async def played_anthropic() -> AsyncIterator[PlayedAnthropic]:
    played = PlayedAnthropic()
    app = web.Application()
    app.router.add_get("/v1/models", played.models)
    app.router.add_post("/v1/messages", played.messages)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    played.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield played
    finally:
        played.released.set()
        await runner.cleanup()


@pytest.fixture
async def server():
    async with played_anthropic() as played:
        yield played


@pytest.fixture
async def upstream(server):
    client = AiohttpClient(
        "anthropic", server.base_url, answer_limit_bytes=1_000_000, max_connections=5
    )
    upstream = AnthropicUpstream("anthropic", client, KEY)
    yield upstream
    await upstream.close()


def chat(**more) -> Ask:
    body = {"model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": "hi"}], **more}
    return Ask("chat/completions", "claude-sonnet-4-6", json.dumps(body).encode(), KEY)


def messages(**more) -> Ask:
    body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [], **more}
    return Ask("messages", "claude-sonnet-4-6", json.dumps(body).encode(), KEY)


def overloaded() -> web.Response:
    return web.json_response(OVERLOADED, status=529, headers={"retry-after": "3"})


async def collect(stream: Answer | AnswerStream) -> bytes:
    assert isinstance(stream, AnswerStream)
    return b"".join([chunk async for chunk in stream.chunks])


class TestPost:
    async def test_sends_its_credential_and_its_version(self, server, upstream):
        server.answer = lambda: web.json_response(value_of("message-text.json"))

        await upstream.post(chat())

        (headers,) = server.headers
        assert (headers["x-api-key"], headers["anthropic-version"]) == (KEY, "2023-06-01")
        assert "authorization" not in {name.lower() for name in headers}

    async def test_translates_a_chat_there_and_back(self, server, upstream):
        server.answer = lambda: web.json_response(value_of("message-tools.json"))

        answer = await upstream.post(chat(temperature=0.5))

        asked = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
        assert (server.asked[0]["messages"], server.asked[0]["temperature"]) == ([asked], 0.5)
        assert (answer.status, answer.content_type) == (200, "application/json")
        found, expected = json.loads(answer.body), value_of("message-tools.as-chat.json")
        assert found | {"created": 0} == expected | {"created": 0}
        assert found["created"] > 1_700_000_000

    async def test_hands_messages_through_as_they_are(self, server, upstream):
        server.answer = lambda: web.Response(body=golden("message-text.json"))

        answer = await upstream.post(messages(container="c"))

        assert server.asked[0]["container"] == "c"
        assert answer.body == golden("message-text.json")

    async def test_sends_nothing_of_what_it_cannot_translate(self, server, upstream):
        with pytest.raises(Unmappable):
            await upstream.post(chat(n=2))

        assert server.asked == []

    async def test_calls_overloaded_what_others_know_as_unavailable(self, server, upstream):
        server.answer = overloaded

        answer = await upstream.post(chat())

        assert (answer.status, answer.retry_after) == (503, "3")
        assert json.loads(answer.body)["error"]["code"] == "overloaded_error"

    async def test_messages_are_overloaded_in_their_own_words(self, server, upstream):
        server.answer = overloaded

        answer = await upstream.post(messages())

        assert (answer.status, json.loads(answer.body)) == (503, OVERLOADED)

    async def test_refuses_what_is_no_message(self, server, upstream):
        server.answer = lambda: web.Response(text="<html>")

        with pytest.raises(UpstreamNonsense):
            await upstream.post(chat())


class TestStream:
    async def test_translates_a_stream_wherever_its_chunks_end(self, server, upstream):
        given = golden("message-text.sse")
        cuts = [0, 7, 300, 301, 500, len(given)]
        server.pieces = [given[a:b] for a, b in pairwise(cuts)]

        found = events_of(await collect(await upstream.stream(chat(stream=True))))

        assert server.asked[0]["stream"] is True
        expected = events_of(golden("message-text.as-chat.sse"))
        assert [kind for kind, _ in found] == [kind for kind, _ in expected]
        assert found[2][1]["choices"] == expected[2][1]["choices"]
        assert found[-1] == ("", "[DONE]")

    async def test_hands_a_stream_of_messages_through_as_it_is(self, server, upstream):
        server.pieces = [golden("message-tools.sse")]

        stream = await upstream.stream(messages(stream=True))

        assert await collect(stream) == golden("message-tools.sse")

    async def test_hands_an_error_over_whole(self, server, upstream):
        server.answer = overloaded

        answer = await upstream.stream(chat(stream=True))

        assert isinstance(answer, Answer)
        assert (answer.status, answer.retry_after) == (503, "3")
        assert json.loads(answer.body)["error"]["message"] == "Overloaded"

    async def test_sends_nothing_of_what_it_cannot_translate(self, server, upstream):
        with pytest.raises(Unmappable):
            await upstream.stream(chat(stream=True, seed=7))

        assert server.asked == []

    async def test_hands_on_what_has_come_before_the_rest_has(self, server, upstream):
        server.pieces, server.waits = [FIRST_EVENT], True
        stream = await upstream.stream(chat(stream=True))

        first = await anext(stream.chunks)

        assert events_of(first)[0][1]["choices"][0]["delta"]["role"] == "assistant"
        await stream.close()

    async def test_closing_cuts_the_upstream(self, server, upstream):
        server.pieces, server.waits = [FIRST_EVENT], True
        stream = await upstream.stream(chat(stream=True))
        await anext(stream.chunks)

        await stream.close()

        await until(lambda: server.cut == 1)

    async def test_a_death_in_the_middle_is_no_end(self, server, upstream):
        server.pieces, server.dies = [FIRST_EVENT], True
        stream = await upstream.stream(chat(stream=True))

        with pytest.raises(UpstreamUnreachable):
            await collect(stream)

    async def test_refuses_what_is_no_event(self, server, upstream):
        server.pieces = [b"data: nonsense\n\n"]
        stream = await upstream.stream(chat(stream=True))

        with pytest.raises(UpstreamNonsense):
            await collect(stream)


class TestModels:
    async def test_reads_every_page(self, server, upstream):
        server.pages = [
            {"data": [{"id": "a", "type": "model"}], "has_more": True, "last_id": "a&b"},
            {"data": [{"id": "c", "type": "model"}], "has_more": False, "last_id": "c"},
        ]

        assert await upstream.models() == ["a", "c"]
        assert server.queries == ["limit=1000", "limit=1000&after_id=a%26b"]

    async def test_uses_its_own_credential(self, server, upstream):
        server.pages = [{"data": []}]

        await upstream.models()

        assert server.headers[0]["x-api-key"] == KEY

    async def test_does_not_read_without_an_end(self, server, upstream):
        server.pages = [{"data": [], "has_more": True, "last_id": "a"}]

        with pytest.raises(BadUpstream, match="without an end"):
            await upstream.models()

        assert len(server.queries) == PAGES_LIMIT

    @pytest.mark.parametrize("page", [{"data": [{"not": "a name"}]}, {}, [], {"data": "x"}])
    async def test_refuses_a_list_in_no_known_form(self, server, upstream, page):
        server.pages = [page]

        with pytest.raises(BadUpstream, match="no known form"):
            await upstream.models()

    async def test_says_that_it_was_refused(self, server, upstream):
        server.pages = [lambda: web.json_response({}, status=401)]

        with pytest.raises(BadUpstream, match="answered 401"):
            await upstream.models()


class TestSurfaces:
    def test_are_messages_and_chats(self, upstream):
        assert upstream.surfaces == {"messages", "chat/completions"}
