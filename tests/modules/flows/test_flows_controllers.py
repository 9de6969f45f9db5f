"""Flows over HTTP, as the SDKs of the contract ask for them."""

import itertools
from datetime import datetime
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, LEAN, open_house, prepare
from tests.modules.flows.shelves import document, inner, step

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = [
    "flow_id",
    "name",
    "description",
    "version",
    "nodes",
    "entry_point",
    "exit_points",
    "metadata",
    "created_by",
    "source",
    "is_active",
    "created_at",
    "updated_at",
]
SHIPPED = ["extract", "review", "summarize"]


class Desk:
    """A client of one house; each test asks as a user of its own."""

    names = (f"flow-{number}" for number in itertools.count())

    def __init__(self, client) -> None:
        self.client = client
        self.headers = AUTHORIZED

    async def become_somebody_else(self) -> None:
        account = {"email": f"{uuid4()}@example.test", "password": "correct horse battery"}
        answer = await self.client.post("/api/v1/auth/register", json=account)
        self.headers = {"authorization": f"Bearer {answer.json()['access_token']}"}

    async def ask(self, method: str, path: str = "", *, root: str = "/spine", **body):
        url = f"{root}/flows{path}"
        return await self.client.request(method, url, headers=self.headers, **body)

    async def create(self, *nodes: dict, **members) -> dict:
        wanted = document(next(self.names), *nodes, **members)
        answer = await self.ask("POST", json=wanted)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def refused(self, *nodes: dict, **members) -> dict:
        answer = await self.ask("POST", json=document(next(self.names), *nodes, **members))
        assert answer.status_code == 400, answer.text
        return answer.json()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory):
    data = prepare(tmp_path_factory.mktemp("house") / "data")
    async with open_house(data, **LEAN, FEATURE_FLOWS="on") as (_, client):
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def desk(client):
    desk = Desk(client)
    await desk.become_somebody_else()
    return desk


class TestList:
    async def test_shows_yours_and_the_installations(self, desk):
        made = await desk.create()

        answer = await desk.ask("GET")

        assert answer.status_code == 200
        assert [one["flow_id"] for one in answer.json()["flows"]] == [made["flow_id"], *SHIPPED]
        assert answer.json()["count"] == 4

    async def test_shows_nobody_elses(self, desk):
        await desk.create()
        await desk.become_somebody_else()

        shown = (await desk.ask("GET")).json()

        assert [one["flow_id"] for one in shown["flows"]] == SHIPPED

    async def test_shows_a_part(self, desk):
        shown = (await desk.ask("GET", "?limit=1&offset=1")).json()

        assert ([one["flow_id"] for one in shown["flows"]], shown["count"]) == (["review"], 3)

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "limit=x"])
    async def test_refuses_a_part_that_cannot_be(self, desk, query):
        assert (await desk.ask("GET", f"?{query}")).status_code == 400

    async def test_needs_a_principal(self, desk):
        desk.headers = {}

        assert (await desk.ask("GET")).status_code == 401

    async def test_is_there_for_both_kinds_of_clients(self, desk):
        assert (await desk.ask("GET", root="/spine/api/v1")).json()["count"] == 3


class TestListOwn:
    async def test_shows_yours_and_who_you_are(self, desk):
        made = await desk.create()

        shown = (await desk.ask("GET", "/my-flows")).json()

        assert shown == {"flows": [made], "count": 1, "user_id": made["created_by"]}


class TestCreate:
    async def test_answers_as_its_clients_know_it(self, desk):
        nodes = [step("a", type="input"), step("b", "a", kind="llm", config={"prompt": "{x}"})]

        made = await desk.create(*nodes, name="Ask", metadata={"team": 1})

        assert list(made) == FIELDS
        assert (made["name"], made["version"], made["description"]) == ("Ask", "1.0.0", "")
        assert (made["entry_point"], made["exit_points"]) == ("a", ["b"])
        assert (made["source"], made["is_active"], made["metadata"]) == ("api", True, {"team": 1})
        assert made["created_at"] == made["updated_at"]
        assert made["created_at"].endswith("Z")
        assert datetime.fromisoformat(made["created_at"]).utcoffset() is not None

    async def test_shows_nodes_with_what_clients_read(self, desk):
        branches = [{"when": "input.x == 1", "then": ["b"]}, {"else": ["c"]}]
        first = {"id": "a", "type": "conditional", "conditions": branches}

        made = await desk.create(first, step("b", "a"), step("c", "a"))

        assert made["nodes"][0] == {**first, "depends_on": [], "config": {}}
        assert made["nodes"][1] == {
            "id": "b",
            "type": "processor",
            "depends_on": ["a"],
            "config": {},
        }

    async def test_gives_back_what_it_takes(self, desk):
        made = await desk.create(step("a", kind="llm", config={"prompt": "x"}))
        wanted = {name: made[name] for name in FIELDS[:8]}
        await desk.become_somebody_else()

        again = await desk.ask("POST", json=wanted)

        assert {name: again.json()[name] for name in FIELDS[:8]} == wanted

    async def test_an_id_that_is_taken_is_a_conflict(self, desk):
        made = await desk.create()

        refused = await desk.ask("POST", json=document(made["flow_id"]))

        assert (refused.status_code, refused.json()["error_code"]) == (409, "FLOW_TAKEN")

    async def test_an_id_of_the_installation_is_taken(self, desk):
        assert (await desk.ask("POST", json=document("summarize"))).status_code == 409

    async def test_names_the_nodes_of_a_cycle(self, desk):
        refused = await desk.refused(step("a", "b"), step("b", "a"))

        assert refused["error_code"] == "FLOW_INVALID"
        assert refused["details"]["node"] == "a"
        assert refused["details"]["cycle"] == ["a", "b"]

    async def test_names_the_node_with_an_unknown_dependency(self, desk):
        refused = await desk.refused(step("a"), step("b", "missing"))

        assert refused["details"]["node"] == "b"
        assert "missing" in refused["detail"] == refused["message"]

    async def test_names_the_node_with_an_unknown_agent(self, desk):
        refused = await desk.refused(step("a"), step("b", agent_id="nobody"))

        assert refused["details"]["node"] == "b"
        assert "nobody" in refused["message"]

    async def test_names_the_node_with_an_unknown_flow(self, desk):
        assert (await desk.refused(inner("b", "missing")))["details"]["node"] == "b"

    @pytest.mark.parametrize(
        ("members", "named"),
        [
            ({"colour": "red"}, "colour"),
            ({"name": 3}, "name"),
            ({"nodes": [{"id": "a", "colour": "red"}]}, "colour"),
            ({"nodes": [{"id": "a", "type": "router"}]}, "type"),
            ({"version": "latest"}, "version"),
            ({"exit_points": ["z"]}, "exit_points"),
        ],
    )
    async def test_names_what_it_does_not_take(self, desk, members, named):
        assert named in (await desk.refused(**members))["message"]

    @pytest.mark.parametrize("body", ["", "{", "[]", "3", "null", '"x"', "[" * 5000])
    async def test_refuses_what_is_no_document(self, desk, body):
        desk.headers = {**desk.headers, "content-type": "application/json"}

        assert (await desk.ask("POST", content=body)).status_code == 400

    async def test_refuses_what_is_too_large(self, desk):
        assert "256 KiB" in (await desk.refused(metadata={"x": "x" * 262_144}))["message"]

    async def test_needs_a_principal(self, desk):
        desk.headers = {}

        assert (await desk.ask("POST", json=document("x"))).status_code == 401


class TestRead:
    async def test_shows_a_flow(self, desk):
        made = await desk.create()

        answer = await desk.ask("GET", f"/{made['flow_id']}")

        assert (answer.status_code, answer.json()) == (200, made)

    async def test_shows_one_of_the_installation(self, desk):
        shown = (await desk.ask("GET", "/summarize")).json()

        assert (shown["source"], shown["created_by"]) == ("file", None)

    async def test_shows_a_former_version(self, desk):
        made = await desk.create(name="First")
        await desk.ask("PUT", f"/{made['flow_id']}", json={"name": "Second"})

        shown = await desk.ask("GET", f"/{made['flow_id']}?version=1.0.0")

        assert shown.json()["name"] == "First"

    @pytest.mark.parametrize("path", ["/missing", "/summarize?version=9", "/a%20b", "/a%00"])
    async def test_what_is_not_there_is_not_found(self, desk, path):
        answer = await desk.ask("GET", path)

        assert (answer.status_code, answer.json()["error_code"]) == (404, "NO_SUCH_FLOW")

    async def test_another_users_is_not_found(self, desk):
        made = await desk.create()
        await desk.become_somebody_else()

        assert (await desk.ask("GET", f"/{made['flow_id']}")).status_code == 404


class TestVersions:
    async def test_shows_the_highest_first(self, desk):
        made = await desk.create()
        changed = (await desk.ask("PUT", f"/{made['flow_id']}", json={})).json()

        shown = (await desk.ask("GET", f"/{made['flow_id']}/versions")).json()

        assert shown == {
            "versions": [
                {"version": "1.0.1", "created_at": changed["updated_at"]},
                {"version": "1.0.0", "created_at": made["created_at"]},
            ],
            "count": 2,
        }

    async def test_of_what_is_not_there_are_not_found(self, desk):
        assert (await desk.ask("GET", "/missing/versions")).status_code == 404


class TestChange:
    async def test_takes_a_part(self, desk):
        made = await desk.create(description="Long.")

        answer = await desk.ask("PUT", f"/{made['flow_id']}", json={"name": "Other"})

        assert answer.status_code == 200
        changed = answer.json()
        assert (changed["name"], changed["description"]) == ("Other", "Long.")
        assert changed["version"] == "1.0.1"

    async def test_takes_all_that_create_takes(self, desk):
        made = await desk.create()
        wanted = {name: made[name] for name in FIELDS[:8]} | {"nodes": [step("z")]}
        wanted |= {"entry_point": None, "exit_points": []}

        changed = (await desk.ask("PUT", f"/{made['flow_id']}", json=wanted)).json()

        assert (changed["version"], changed["exit_points"]) == ("1.0.1", ["z"])

    async def test_refuses_another_id(self, desk):
        made = await desk.create()

        refused = await desk.ask("PUT", f"/{made['flow_id']}", json={"flow_id": "other"})

        assert (refused.status_code, refused.json()["error_code"]) == (400, "ID_MISMATCH")

    async def test_names_what_it_does_not_take(self, desk):
        made = await desk.create()

        refused = await desk.ask("PUT", f"/{made['flow_id']}", json={"source": "file"})

        assert refused.status_code == 400
        assert "source" in refused.json()["message"]

    async def test_the_installations_are_forbidden(self, desk):
        refused = await desk.ask("PUT", "/summarize", json={"name": "Mine"})

        assert (refused.status_code, refused.json()["error_code"]) == (403, "NOT_YOURS")

    async def test_another_users_is_not_found(self, desk):
        made = await desk.create()
        await desk.become_somebody_else()

        assert (await desk.ask("PUT", f"/{made['flow_id']}", json={})).status_code == 404


class TestDelete:
    async def test_says_so(self, desk):
        made = await desk.create()

        answer = await desk.ask("DELETE", f"/{made['flow_id']}")

        assert (answer.status_code, answer.json()["status"]) == (200, "deleted")
        assert made["flow_id"] in answer.json()["message"]
        assert (await desk.ask("GET", f"/{made['flow_id']}")).status_code == 404

    async def test_the_id_is_free_again(self, desk):
        made = await desk.create()
        await desk.ask("DELETE", f"/{made['flow_id']}")

        again = await desk.ask("POST", json=document(made["flow_id"]))

        assert (again.status_code, again.json()["version"]) == (201, "1.0.1")

    async def test_the_installations_are_forbidden(self, desk):
        assert (await desk.ask("DELETE", "/summarize")).status_code == 403

    async def test_what_is_not_there_is_not_found(self, desk):
        assert (await desk.ask("DELETE", "/missing")).status_code == 404

    async def test_another_users_is_not_found(self, desk):
        made = await desk.create()
        await desk.become_somebody_else()

        assert (await desk.ask("DELETE", f"/{made['flow_id']}")).status_code == 404
