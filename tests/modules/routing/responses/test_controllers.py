"""HTTP of kept responses."""

from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from app.kernel import problems
from app.kernel.db import uuid7
from app.kernel.module import always
from app.modules.auth.api import Principal
from app.modules.routing.controllers.responses import ResponseController
from app.modules.routing.domain.responses.from_chat import response_answer
from app.modules.routing.domain.responses.ids import response_id
from tests.modules.routing.responses.cases import CREATED_S, RESPONSE, request

ANNA = uuid7()
HELLO = b'{"choices":[{"message":{"role":"assistant","content":"Hello!"}}]}'


@pytest.fixture
async def client(conversations) -> AsyncIterator[httpx.AsyncClient]:
    """Anna's client."""
    anna = Principal(
        user_id=ANNA,
        kind="key",
        credential_id=ANNA,
        role="member",
        scopes=frozenset({"inference"}),
    )
    app = Litestar(
        [ResponseController],
        dependencies={"conversations": always(conversations), "principal": always(anna)},
        exception_handlers=problems.handlers({}),
        openapi_config=None,
        logging_config=None,
    )
    async with AsyncTestClient(app) as found:
        yield found


async def keep(conversations, user_id=ANNA, **members) -> tuple[str, bytes]:
    asked, name = request(**members), response_id(uuid7())
    body = response_answer(HELLO, asked, name, CREATED_S)
    await conversations.keep(user_id, asked, body)
    return name, body


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    told = answer.json()
    return answer.status_code, told["type"].removeprefix("urn:problem:"), told.get("param")


class TestRead:
    async def test_answers_the_response_byte_for_byte(self, client, conversations):
        name, body = await keep(conversations)

        answer = await client.get(f"/v1/responses/{name}")

        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == "application/json"
        assert RESPONSE.validate_json(answer.content).id == name

    async def test_an_unknown_response_is_404(self, client):
        answer = await client.get("/v1/responses/resp_1")

        assert problem(answer) == (404, "response-not-found", "response_id")

    async def test_somebody_elses_response_is_404(self, client, conversations):
        name, _ = await keep(conversations, uuid7())

        answer = await client.get(f"/v1/responses/{name}")

        assert problem(answer) == (404, "response-not-found", "response_id")

    async def test_is_not_streamed_again(self, client, conversations):
        name, _ = await keep(conversations)

        answer = await client.get(f"/v1/responses/{name}", params={"stream": "true"})

        assert problem(answer) == (400, "unmappable", "stream")


class TestDelete:
    async def test_says_that_it_is_gone(self, client, conversations):
        name, _ = await keep(conversations)

        answer = await client.delete(f"/v1/responses/{name}")

        assert answer.status_code == 200
        assert answer.json() == {"id": name, "object": "response", "deleted": True}
        assert (await client.get(f"/v1/responses/{name}")).status_code == 404

    async def test_an_unknown_response_is_404(self, client):
        answer = await client.delete("/v1/responses/resp_1")

        assert problem(answer) == (404, "response-not-found", "response_id")


class TestInputItems:
    @pytest.fixture
    async def path(self, conversations) -> str:
        items = [{"id": f"m{n}", "role": "user", "content": str(n)} for n in range(5)]
        name, _ = await keep(conversations, input=items)
        return f"/v1/responses/{name}/input_items"

    async def test_answers_the_last_one_first(self, client, path):
        page = (await client.get(path)).json()

        assert [item["id"] for item in page["data"]] == ["m4", "m3", "m2", "m1", "m0"]
        assert page["data"][0] == {
            "type": "message",
            "id": "m4",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "4"}],
        }
        assert {k: v for k, v in page.items() if k != "data"} == {
            "object": "list",
            "has_more": False,
            "first_id": "m4",
            "last_id": "m0",
        }

    async def test_pages_follow_each_other(self, client, path):
        shown = []
        after, has_more = {}, True
        while has_more:
            params = {"limit": 2, "order": "asc", **after}
            page = (await client.get(path, params=params)).json()
            shown.append([item["id"] for item in page["data"]])
            after, has_more = {"after": page["last_id"]}, page["has_more"]

        assert shown == [["m0", "m1"], ["m2", "m3"], ["m4"]]

    async def test_a_page_after_the_last_one_is_empty(self, client, path):
        page = (await client.get(path, params={"after": "m0"})).json()

        assert (page["data"], page["first_id"], page["last_id"]) == ([], "", "")

    async def test_an_unknown_cursor_is_400(self, client, path):
        answer = await client.get(path, params={"after": "m9"})

        assert problem(answer) == (400, "cursor-unknown", "after")

    @pytest.mark.parametrize(
        "params", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}]
    )
    async def test_wrong_parameters_are_400(self, client, path, params):
        assert (await client.get(path, params=params)).status_code == 400

    async def test_an_unknown_response_is_404(self, client):
        answer = await client.get("/v1/responses/resp_1/input_items")

        assert problem(answer) == (404, "response-not-found", "response_id")


class TestTheClient:
    async def test_finds_its_way(self, client, conversations):
        """OpenAI's own client, by its own paths."""
        from openai import AsyncOpenAI

        name, _ = await keep(conversations)
        url = f"{client.base_url}/v1"
        openai = AsyncOpenAI(api_key="k", base_url=url, http_client=client)

        response = await openai.responses.retrieve(name)
        items = [item async for item in openai.responses.input_items.list(name)]
        await openai.responses.delete(name)

        assert response.output_text == "Hello!"
        assert items[0].content[0].text == "Hello."
