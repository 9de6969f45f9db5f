"""Agents over HTTP, below both paths of the contract."""

from uuid import uuid4

import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, LEAN, open_house, prepare
from tests.modules.flows.scripted_agent import agent_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = "https://agents.example.org/helper"
HELPER = {"agent_id": "helper", "name": "Helper", "endpoint": PUBLIC}
FIELDS = {
    "agent_id",
    "name",
    "description",
    "endpoint",
    "capabilities",
    "agent_type",
    "type",
    "is_active",
    "configuration",
    "metadata",
    "environment_schema",
    "has_token",
    "is_idempotent",
    "status",
    "last_seen_at",
    "created_by",
    "created_at",
    "updated_at",
}


class Desk:
    """The house, as one of its users calls it."""

    def __init__(self, client, headers) -> None:
        self.client = client
        self.headers = headers

    async def ask(self, method: str, path: str = "", root: str = "/spine", **body):
        url = f"{root}/agents{path}"
        return await self.client.request(method, url, headers=self.headers, **body)

    async def register(self, root: str = "/spine", **more):
        return await self.ask("POST", root=root, json=HELPER | more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory):
    place = tmp_path_factory.mktemp("house")
    changes = LEAN | {"FEATURE_FLOWS": "on"}
    async with open_house(prepare(place / "data"), **changes) as (_, client):
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def desk(client):
    """A member who has just come."""
    account = {"email": f"{uuid4()}@example.test", "password": "correct horse battery"}
    answer = await client.post("/api/v1/auth/register", json=account)
    return Desk(client, {"authorization": f"Bearer {answer.json()['access_token']}"})


@pytest.fixture
def owner(client):
    return Desk(client, AUTHORIZED)


class TestRegister:
    async def test_answers_201_with_the_agent(self, desk):
        answer = await desk.register(
            description="Helps.", capabilities=["conversation"], token="a-token", is_idempotent=True
        )

        agent = answer.json()
        assert answer.status_code == 201
        assert agent.keys() == FIELDS
        assert {name: agent[name] for name in HELPER} == HELPER
        assert (agent["capabilities"], agent["is_idempotent"]) == (["conversation"], True)
        assert (agent["agent_type"], agent["type"]) == ("processor", "processor")
        assert (agent["status"], agent["last_seen_at"]) == ("unknown", None)
        assert agent["created_at"].endswith("Z")

    async def test_shows_no_token(self, desk):
        answer = await desk.register(token="a-secret-token")

        assert answer.json()["has_token"] is True
        assert "a-secret-token" not in answer.text

    async def test_takes_type_for_agent_type(self, desk):
        answer = await desk.register(type="conditional")

        assert answer.json()["agent_type"] == "conditional"

    async def test_refuses_two_types(self, desk):
        answer = await desk.register(type="input", agent_type="output")

        assert answer.status_code == 400
        assert "agent_type and type" in answer.json()["message"]

    async def test_answers_409_for_an_id_that_is_taken(self, desk):
        await desk.register()

        answer = await desk.register()

        assert answer.status_code == 409
        assert answer.json()["error_code"] == "AGENT_TAKEN"

    @pytest.mark.parametrize(
        "change",
        [
            {"agent_id": "a b"},
            {"agent_id": ""},
            {"agent_id": "x" * 101},
            {"agent_id": "helper\n"},
            {"agent_id": "active"},
            {"name": ""},
            {"name": "two\nlines"},
            {"description": "nul \x00"},
            {"endpoint": "ftp://example.org"},
            {"endpoint": "http://127.0.0.1:8000"},
            {"endpoint": 1},
            {"capabilities": ["flying"]},
            {"token": "two\r\nlines"},
            {"token": ""},
            {"environment_schema": {"KEY": {"type": "secret"}}},
            {"configuration": []},
            {"unknown": 1},
        ],
    )
    async def test_answers_400_for_what_is_no_agent(self, desk, change):
        answer = await desk.register(**change)

        assert answer.status_code == 400
        assert answer.json()["message"]

    @pytest.mark.parametrize("name", HELPER)
    async def test_answers_400_without_what_is_needed(self, desk, name):
        body = {key: value for key, value in HELPER.items() if key != name}

        answer = await desk.ask("POST", json=body)

        assert answer.status_code == 400
        assert name in answer.text

    async def test_names_the_member_that_is_unknown(self, desk):
        answer = await desk.register(endpont="https://example.org")

        assert "endpont" in answer.text

    async def test_does_not_repeat_a_token_that_it_refuses(self, desk):
        answer = await desk.register(token="a secret token")

        assert answer.status_code == 400
        assert "a secret token" not in answer.text


class TestList:
    async def test_answers_the_users_agents(self, desk):
        await desk.register()

        answer = (await desk.ask("GET")).json()

        assert answer.keys() == {"agents", "count", "authenticated"}
        assert (answer["count"], answer["authenticated"]) == (1, True)
        assert answer["agents"][0]["agent_id"] == "helper"

    async def test_shows_nobody_elses(self, desk, owner):
        await owner.register(agent_id=f"owners-{uuid4().hex}")

        assert (await desk.ask("GET")).json()["agents"] == []

    async def test_of_the_active_ones_leaves_out_the_others(self, desk):
        await desk.register(agent_id="off", is_active=False)
        await desk.register(agent_id="on")

        answer = (await desk.ask("GET", "/active")).json()

        assert [agent["agent_id"] for agent in answer["agents"]] == ["on"]
        assert answer.keys() == {"agents", "count"}

    async def test_of_ones_own_says_whose(self, desk):
        created = (await desk.register()).json()

        answer = (await desk.ask("GET", "/my-agents")).json()

        assert answer["user_id"] == created["created_by"]
        assert answer["count"] == 1


class TestRead:
    async def test_answers_the_agent(self, desk):
        created = (await desk.register()).json()

        answer = await desk.ask("GET", "/helper")

        assert answer.status_code == 200
        assert answer.json() == created

    async def test_answers_404_for_somebody_elses(self, desk, owner):
        name = f"owners-{uuid4().hex}"
        await owner.register(agent_id=name)

        answer = await desk.ask("GET", f"/{name}")

        assert answer.status_code == 404
        assert answer.json()["error_code"] == "NO_SUCH_AGENT"


class TestRemove:
    async def test_answers_200_with_a_message(self, desk):
        await desk.register()

        answer = await desk.ask("DELETE", "/helper")

        assert answer.status_code == 200
        assert answer.json() == {"message": "The agent helper is removed."}
        assert (await desk.ask("GET", "/helper")).status_code == 404

    async def test_answers_404_the_second_time(self, desk):
        await desk.register()
        await desk.ask("DELETE", "/helper")

        assert (await desk.ask("DELETE", "/helper")).status_code == 404


class TestTest:
    async def test_says_that_an_agent_answers(self, owner):
        async with agent_server() as agent:
            answer = await owner.ask("POST", "/test", json={"endpoint": agent.url})

        assert answer.status_code == 200
        assert answer.json() == {"connected": True, "message": "The agent is ready."}

    async def test_says_why_none_answers(self, owner):
        async with agent_server() as gone:
            url = gone.url

        answer = await owner.ask("POST", "/test", json={"endpoint": url})

        assert answer.status_code == 200
        assert answer.json()["connected"] is False
        assert "cannot be reached" in answer.json()["message"]

    async def test_answers_400_for_an_address_that_is_not_the_callers_to_name(self, desk):
        answer = await desk.ask("POST", "/test", json={"endpoint": "http://localhost:1"})

        assert answer.status_code == 400
        assert answer.json()["error_code"] == "ENDPOINT_FORBIDDEN"


class TestPaths:
    async def test_are_the_same_agents_below_both(self, desk):
        await desk.register(root="/spine/api/v1")

        assert (await desk.ask("GET", "/helper")).status_code == 200

    @pytest.mark.parametrize("root", ["/spine", "/spine/api/v1"])
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", ""),
            ("POST", ""),
            ("GET", "/active"),
            ("GET", "/my-agents"),
            ("GET", "/helper"),
            ("DELETE", "/helper"),
            ("POST", "/test"),
        ],
    )
    async def test_need_a_key_below_both(self, client, root, method, path):
        stranger = Desk(client, {})

        answer = await stranger.ask(method, path, root=root, json=HELPER)

        assert answer.status_code == 401
