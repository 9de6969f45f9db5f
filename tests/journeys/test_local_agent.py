"""A router and its local agents, each a process of its own, and a stock client before them."""

from contextlib import asynccontextmanager

import httpx
import openai
import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, KEY, LEAN, RunningServer, running_server
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
WORKERS = "/api/v1/routing/workers"
USER = [{"role": "user", "content": "hello there"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALLS = 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def router(tmp_path_factory: pytest.TempPathFactory):
    """A router without a model of its own, which misses an agent after three seconds."""
    variables = {"ROUTING_DEV_MODEL": "off", "ROUTING_HEARTBEAT_S": "1", **LEAN}
    async with running_server(tmp_path_factory.mktemp("router") / "data", **variables) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(router: RunningServer):
    base_url = f"{router.base_url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(router: RunningServer):
    async with httpx.AsyncClient(base_url=router.base_url, headers=AUTHORIZED) as http:
        yield http


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, router: RunningServer, http: httpx.AsyncClient):
    """Start an agent of a name, and wait until its router offers what it has."""

    @asynccontextmanager
    async def start(name: str):
        variables = {
            "ROUTING_ROLE": "local-agent",
            "ROUTING_ROUTER_URL": router.base_url,
            "ROUTING_ROUTER_KEY": KEY,
            "ROUTING_AGENT_NAME": name,
            "ROUTING_AGENT_KEY": KEY,
            **LEAN,
        }
        async with running_server(tmp_path_factory.mktemp("agent") / name, **variables) as server:
            try:
                await until(lambda: is_offered(http, name))
                yield server
            finally:
                # One that was killed does not say that it leaves.
                await http.delete(f"{WORKERS}/{name}")

    return start


@pytest_asyncio.fixture(scope="class", loop_scope="module")
async def standing(agent):
    """An agent for those who leave it as it is, and the only one."""
    async with agent("standing") as server:
        yield server


async def is_offered(http: httpx.AsyncClient, name: str) -> bool:
    return (await http.get(f"/v1/models/worker/{name}/dev/echo")).status_code == 200


async def answered(http: httpx.AsyncClient, name: str) -> int:
    """How many calls this agent has answered."""
    rows = (await http.get("/api/v1/usage", params={"limit": 500})).json()["items"]
    found = [row for row in rows if row["outcome"] == "completed"]
    return sum(row["upstream"] == f"worker/{name}" for row in found)


async def echo(client: openai.AsyncOpenAI) -> str:
    answer = await client.chat.completions.create(model="dev/echo", messages=USER)
    return answer.choices[0].message.content


class TestLocalAgent:
    async def test_answers_a_stock_client_of_its_router(self, standing, client, http):
        before = await answered(http, "standing")

        models = [model.id async for model in client.models.list()]
        whole = await client.chat.completions.create(model="dev/echo", messages=USER)
        stream = await client.chat.completions.create(
            model="dev/echo", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert models == ["dev/echo"]
        assert whole.choices[0].message.content == text == "Echo: hello there"
        assert chunks[-1].usage == whole.usage
        await until(lambda: have_answered(http, {"standing": before + 2}))

    async def test_comes_back_to_a_router_that_has_forgotten_it(self, standing, client, http):
        gone = await http.delete(f"{WORKERS}/standing")

        await until(lambda: is_offered(http, "standing"))

        assert gone.status_code == 204
        assert await echo(client) == "Echo: hello there"


class TestEnd:
    async def test_by_a_kill_leaves_its_calls_to_the_others(self, agent, client, http):
        async with agent("one") as one, agent("two"):
            one.kill()

            answers = [await echo(client) for _ in range(CALLS)]
            await until(lambda: have_answered(http, {"one": 0, "two": CALLS}))

        assert answers == ["Echo: hello there"] * CALLS

    async def test_by_a_kill_takes_its_model_along(self, agent, client):
        statuses = []

        async def is_gone() -> bool:
            try:
                await echo(client)
            except openai.NotFoundError:
                return True
            except openai.APIStatusError as error:
                statuses.append(error.status_code)
            return False

        async with agent("killed") as killed:
            killed.kill()

            assert await until(is_gone, within_s=15.0)

        assert set(statuses) <= {502, 503}

    async def test_in_order_is_told_to_the_router(self, agent, client, http):
        async with agent("leaving") as leaving:
            before = await echo(client)
            leaving.stop()

            workers = (await http.get(WORKERS)).json()["items"]
            with pytest.raises(openai.NotFoundError):
                await echo(client)

        assert before == "Echo: hello there"
        assert workers == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(tmp_path_factory: pytest.TempPathFactory):
    """An agent whose router is not there."""
    variables = {"ROUTING_ROLE": "local-agent", "ROUTING_ROUTER_URL": "http://127.0.0.1:9", **LEAN}
    async with running_server(tmp_path_factory.mktemp("agent") / "alone", **variables) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def told(alone: RunningServer, http: httpx.AsyncClient):
    """A router that was told of an agent by somebody else."""
    said = {"name": "alone", "endpoint": f"{alone.base_url}/infer", "models": ["dev/echo"]}
    await http.post("/api/v1/routing/register", json=said | {"key": KEY})
    yield
    await http.delete(f"{WORKERS}/alone")


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

    async def test_is_called_in_its_form_by_a_router(self, told, client):
        whole = await client.chat.completions.create(model="dev/echo", messages=USER)
        stream = await client.chat.completions.create(model="dev/echo", messages=USER, stream=True)
        text = [c.choices[0].delta.content or "" async for c in stream]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="dev/echo", messages=USER, tools=[TOOL])

        assert whole.choices[0].message.content == "".join(text) == "Echo: hello there"
        assert whole.usage.total_tokens == 5
        assert refused.value.param == "tools"


async def have_answered(http: httpx.AsyncClient, counts: dict[str, int]) -> bool:
    return {name: await answered(http, name) for name in counts} == counts
