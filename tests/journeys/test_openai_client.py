"""A stock OpenAI client through the running server."""

import asyncio
import json
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import httpx
import openai
import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, KEY, LEAN, running_server
from tests.node import installed
from tests.scripted_upstream import scripted_upstream
from tests.waiting import until

pytestmark = pytest.mark.slow
USER = [{"role": "user", "content": "hello there"}]
PING = [{"role": "user", "content": "ping"}]
ADD = [{"role": "user", "content": "add_numbers 19 23"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add_numbers",
        "description": "Returns the sum of two integers.",
        "parameters": {
            "type": "object",
            "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}},
        },
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fresh(tmp_path_factory: pytest.TempPathFactory):
    """A server with nothing configured, for those who change nothing there."""
    async with running_server(tmp_path_factory.mktemp("fresh") / "data", **LEAN) as server:
        yield server


@pytest.fixture
async def client(fresh):
    base_url = f"{fresh.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        yield client


class TestFreshInstallation:
    async def test_lists_chats_streams_and_embeds_with_nothing_configured(self, client):
        models = [model.id async for model in client.models.list()]
        whole = await client.chat.completions.create(model="dev/echo", messages=USER)
        stream = await client.chat.completions.create(
            model="dev/echo", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        vectors = await client.embeddings.create(model="dev/echo", input=["a", "a"])

        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert models == ["dev/echo"]
        assert whole.choices[0].message.content == text == "Echo: hello there"
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens == 5
        assert vectors.data[0].embedding == vectors.data[1].embedding

    async def test_errors_are_the_clients_own_exceptions(self, client):
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="none", messages=USER)
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.with_options(api_key="sk-wrong").models.list()

        assert missing.value.code == "model_not_found"
        assert missing.value.request_id
        assert refused.value.code == "invalid_api_key"


class TestLocalModel:
    async def test_chats_streams_calls_a_tool_and_embeds_on_a_real_engine(
        self, tmp_path: Path, tiny_model: Path
    ):
        async with (
            running_server(tmp_path / "data", MLX_MODEL=str(tiny_model), **LEAN) as server,
            openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key=KEY) as client,
        ):
            models = [model.id async for model in client.models.list()]
            whole = await client.chat.completions.create(model="mlx/tiny", messages=PING)
            stream = await client.chat.completions.create(
                model="mlx/tiny",
                messages=PING,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            called = await client.chat.completions.create(
                model="mlx/tiny", messages=ADD, tools=[TOOL]
            )
            vectors = await client.embeddings.create(model="mlx/tiny", input=["ping", "ping", "x"])
            async with httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as http:
                rows = (await http.get("/api/v1/usage")).json()["items"]

        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        (call,) = called.choices[0].message.tool_calls
        assert models == ["mlx/tiny"]
        assert whole.choices[0].message.content == text == "pong zebra"
        assert chunks[-1].usage == whole.usage
        assert called.choices[0].finish_reason == "tool_calls"
        assert call.function.name == "add_numbers"
        assert json.loads(call.function.arguments) == {"a": 19, "b": 23}
        assert vectors.data[0].embedding == vectors.data[1].embedding != vectors.data[2].embedding
        assert [row["outcome"] for row in rows] == ["completed"] * 4
        assert all(row["input_tokens"] > 0 and row["cost_nanos"] == 0 for row in rows)


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def gateway(tmp_path_factory: pytest.TempPathFactory):
    """A scripted upstream, and a client of the server before it."""
    async with scripted_upstream() as played:
        variables = {"EXTERNAL_MOCK_KEY": "k", "MOCK_BASE_URL": played.base_url, **LEAN}
        async with (
            running_server(tmp_path_factory.mktemp("gateway") / "data", **variables) as server,
            httpx.AsyncClient(base_url=server.base_url, headers=AUTHORIZED) as http,
        ):
            yield played, http


@pytest.mark.asyncio(loop_scope="class")
class TestHangUp:
    @pytest.mark.parametrize("stream", [True, False])
    async def test_reaches_the_upstream_and_is_on_the_bill(self, gateway, stream):
        played, http = gateway
        cut, billed = played.cut, len(await outcomes(http))
        asked = {"model": "slow", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        request = http.build_request("POST", "/v1/chat/completions", json=asked)
        call = asyncio.create_task(http.send(request, stream=True))
        await until(lambda: played.open == 1)
        if stream:
            response = await call
            await anext(response.aiter_raw())
            await response.aclose()
        else:
            call.cancel()
        await until(lambda: played.cut == cut + 1)

        async def is_billed() -> bool:
            return len(await outcomes(http)) == billed + 1

        await until(is_billed)
        assert (await outcomes(http))[0] == "abandoned"


async def outcomes(http: httpx.AsyncClient) -> list[str]:
    """How the calls ended, newest first."""
    return [row["outcome"] for row in (await http.get("/api/v1/usage")).json()["items"]]


class TestNode:
    async def test_the_client_for_node_works_likewise(self, fresh):
        script = Path(__file__).with_name("openai_client.mjs")
        folder = installed("openai@7.55.0")

        arguments = [str(folder), f"{fresh.base_url}/v1", KEY, "dev/echo"]
        ended = await asyncio.create_subprocess_exec(
            "node", str(script), *arguments, stdout=PIPE, stderr=STDOUT
        )
        output, _ = await ended.communicate()

        assert output.decode().strip() == "all as expected"
