"""A router and its local agents, each a process of its own, and a stock client before them."""

from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, KEY, RunningServer, running_server
from tests.waiting import until

pytestmark = pytest.mark.slow
WORKERS = "/api/v1/routing/workers"
USER = [{"role": "user", "content": "hello there"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALLS = 10


@pytest.fixture
async def router(tmp_path: Path):
    """A router without a model of its own, which misses an agent after three seconds."""
    variables = {"ROUTING_DEV_MODEL": "off", "ROUTING_HEARTBEAT_S": "1"}
    async with running_server(tmp_path / "router", **variables) as server:
        yield server


@pytest.fixture
async def client(router):
    base_url = f"{router.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def http(router):
    async with httpx.AsyncClient(base_url=router.base_url, headers=AUTHORIZED) as http:
        yield http


@pytest.fixture
def agent(tmp_path: Path, router: RunningServer, http: httpx.AsyncClient):
    """Start an agent of a name, and wait until its router offers what it has."""

    @asynccontextmanager
    async def start(name: str):
        variables = {
            "ROUTING_ROLE": "local-agent",
            "ROUTING_ROUTER_URL": router.base_url,
            "ROUTING_ROUTER_KEY": KEY,
            "ROUTING_AGENT_NAME": name,
            "ROUTING_AGENT_KEY": KEY,
        }
        async with running_server(tmp_path / name, **variables) as server:
            await until(lambda: is_offered(http, name))
            yield server

    return start


async def is_offered(http: httpx.AsyncClient, name: str) -> bool:
    return (await http.get(f"/v1/models/worker/{name}/dev/echo")).status_code == 200


async def upstreams(http: httpx.AsyncClient) -> list[str]:
    """Where the answered calls went, newest first."""
    rows = (await http.get("/api/v1/usage")).json()["items"]
    return [row["upstream"] for row in rows if row["outcome"] == "completed"]


async def echo(client: openai.AsyncOpenAI) -> str:
    answer = await client.chat.completions.create(model="dev/echo", messages=USER)
    return answer.choices[0].message.content


class TestLocalAgent:
    async def test_answers_a_stock_client_of_its_router(self, agent, client, http):
        async with agent("one"):
            models = [model.id async for model in client.models.list()]
            whole = await client.chat.completions.create(model="dev/echo", messages=USER)
            stream = await client.chat.completions.create(
                model="dev/echo", messages=USER, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            await until(lambda: _has_rows(http, 2))

        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert models == ["dev/echo"]
        assert whole.choices[0].message.content == text == "Echo: hello there"
        assert chunks[-1].usage == whole.usage
        assert await upstreams(http) == ["worker/one"] * 2

    async def test_that_is_killed_leaves_its_calls_to_the_others(self, agent, client, http):
        async with agent("one") as one, agent("two"):
            one.kill()

            answers = [await echo(client) for _ in range(CALLS)]
            await until(lambda: _has_rows(http, CALLS))

        assert answers == ["Echo: hello there"] * CALLS
        assert set(await upstreams(http)) == {"worker/two"}

    async def test_that_is_killed_takes_its_model_along(self, agent, client):
        statuses = []

        async def is_gone() -> bool:
            try:
                await echo(client)
            except openai.NotFoundError:
                return True
            except openai.APIStatusError as error:
                statuses.append(error.status_code)
            return False

        async with agent("one") as one:
            one.kill()

            assert await until(is_gone, within_s=15.0)

        assert set(statuses) <= {502, 503}

    async def test_that_ends_in_order_is_asked_no_more(self, agent, client, http):
        async with agent("one"):
            before = await echo(client)

        workers = (await http.get(WORKERS)).json()["items"]
        with pytest.raises(openai.NotFoundError):
            await echo(client)
        assert before == "Echo: hello there"
        assert workers == []

    async def test_comes_back_to_a_router_that_has_forgotten_it(self, agent, client, http):
        async with agent("one"):
            gone = await http.delete(f"{WORKERS}/one")

            await until(lambda: is_offered(http, "one"))

            assert gone.status_code == 204
            assert await echo(client) == "Echo: hello there"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(tmp_path_factory: pytest.TempPathFactory):
    """An agent whose router is not there."""
    variables = {"ROUTING_ROLE": "local-agent", "ROUTING_ROUTER_URL": "http://127.0.0.1:9"}
    async with running_server(tmp_path_factory.mktemp("agent") / "alone", **variables) as server:
        yield server


class TestInfer:
    async def test_takes_a_prompt_and_a_chat(self, alone):
        async with httpx.AsyncClient(base_url=alone.base_url, headers=AUTHORIZED) as http:
            text = await http.post("/infer", json={"prompt": "hello there"})
            stream = await http.post("/infer", json={"prompt": "hello", "stream": True})
            chat = await http.post("/infer", json={"model": "dev/echo", "messages": USER})
            closed = await http.post("/infer", json={"prompt": "a"}, headers={"authorization": ""})

        assert text.json()["text"] == "Echo: hello there"
        assert text.json()["usage"]["total_tokens"] == 5
        assert stream.text.startswith('data: {"text":"Echo: "}\n\n')
        assert stream.text.endswith("data: [DONE]\n\n")
        assert chat.json()["choices"][0]["message"]["content"] == "Echo: hello there"
        assert closed.status_code == 401

    async def test_is_called_in_its_form_by_a_router(self, alone, tmp_path):
        said = {"name": "alone", "endpoint": f"{alone.base_url}/infer", "models": ["dev/echo"]}
        async with (
            running_server(tmp_path / "router", ROUTING_DEV_MODEL="off") as router,
            httpx.AsyncClient(base_url=router.base_url, headers=AUTHORIZED) as http,
            openai.AsyncOpenAI(
                base_url=f"{router.base_url}/v1", api_key=KEY, max_retries=0
            ) as client,
        ):
            await http.post("/api/v1/routing/register", json=said | {"key": KEY})
            whole = await client.chat.completions.create(model="dev/echo", messages=USER)
            stream = await client.chat.completions.create(
                model="dev/echo", messages=USER, stream=True
            )
            text = [c.choices[0].delta.content or "" async for c in stream]
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(model="dev/echo", messages=USER, tools=[TOOL])

        assert whole.choices[0].message.content == "".join(text) == "Echo: hello there"
        assert whole.usage.total_tokens == 5
        assert refused.value.param == "tools"


async def _has_rows(http: httpx.AsyncClient, count: int) -> bool:
    return len(await upstreams(http)) >= count
