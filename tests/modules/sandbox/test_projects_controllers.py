"""Projects over HTTP."""

from uuid import uuid4

import pytest
import pytest_asyncio

from tests.house import AUTHORIZED, LEAN, open_house, prepare
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = {
    "name",
    "description",
    "status",
    "replicas",
    "idle_workers",
    "packages",
    "preload",
    "limits",
    "llm",
    "model",
    "secrets",
    "source",
    "error",
}


class Desk:
    """The house with a folder of projects, and its owner."""

    def __init__(self, client, folder) -> None:
        self.client = client
        self.folder = folder
        self.headers = AUTHORIZED

    def write(self, name: str, text: str) -> None:
        (self.folder / f"{name}.yaml").write_text(text)

    async def become_a_member(self) -> None:
        account = {"email": f"{uuid4()}@example.test", "password": "correct horse battery"}
        answer = await self.client.post("/api/v1/auth/register", json=account)
        self.headers = {"authorization": f"Bearer {answer.json()['access_token']}"}

    async def ask(self, method: str, path: str, **body):
        url = f"/sandbox/projects{path}"
        return await self.client.request(method, url, headers=self.headers, **body)

    async def put(self, name: str, **document):
        return await self.ask("PUT", f"/{name}", json=document)

    async def read(self, name: str) -> dict:
        return (await self.ask("GET", f"/{name}")).json()

    async def up(self, name: str, replicas: object = 1):
        return await self.ask("POST", f"/{name}/up", json={"replicas": replicas})

    async def down(self, name: str):
        return await self.ask("POST", f"/{name}/down")

    async def clear(self) -> None:
        """Have every project down, and none but the one that is always there."""
        self.headers = AUTHORIZED
        for path in self.folder.iterdir():
            path.unlink()
        for project in (await self.ask("GET", "")).json()["projects"]:
            assert (await self.down(project["name"])).status_code == 200
            if project["source"] == "database":
                assert (await self.ask("DELETE", f"/{project['name']}")).status_code == 204


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory):
    """A client of one house, and that one's folder of projects."""
    place = tmp_path_factory.mktemp("house")
    folder, wheels = place / "projects", place / "wheels"
    folder.mkdir()
    wheels.mkdir()
    changes = {
        "SANDBOX_PROJECTS_DIR": str(folder),
        "SANDBOX_INDEX_URL": wheels.as_uri(),
        "SANDBOX_REPLICAS": "0",
        "FEATURE_SANDBOX": "on",
    }
    async with open_house(prepare(place / "data"), **LEAN, **changes) as (_, client):
        yield client, folder


@pytest_asyncio.fixture(loop_scope="module")
async def desk(house):
    """Its owner, who finds it as it was before other tests."""
    desk = Desk(*house)
    yield desk
    await desk.clear()


class TestList:
    async def test_shows_every_project_as_its_clients_know_it(self, desk):
        desk.write("tables", "description: a file")

        projects = (await desk.ask("GET", "")).json()["projects"]

        assert [(one["name"], one["status"]) for one in projects] == [
            ("default", "down"),
            ("tables", "down"),
        ]
        assert set(projects[0]) == FIELDS

    async def test_shows_a_file_that_cannot_be_read_with_the_reason(self, desk):
        desk.write("broken", "replicas: many")

        assert "replicas" in (await desk.read("broken"))["error"]

    async def test_needs_a_principal(self, desk):
        desk.headers = {}

        assert (await desk.ask("GET", "")).status_code == 401

    async def test_is_for_members_too(self, desk):
        await desk.become_a_member()

        assert (await desk.ask("GET", "")).status_code == 200
        assert (await desk.ask("GET", "/default")).status_code == 200


class TestPut:
    async def test_makes_a_project_and_shows_it(self, desk):
        made = await desk.put("tables", packages=["Pandas >=2"], limits={"wall_s": 90})

        assert made.status_code == 200
        assert (made.json()["packages"], made.json()["source"]) == (["pandas>=2"], "database")
        assert made.json()["limits"]["wall_s"] == 90
        assert await desk.read("tables") == made.json()

    async def test_shows_names_of_secrets_and_no_value(self, desk):
        made = await desk.put("tables", secrets={"KEY": "hunter2"})

        assert made.json()["secrets"] == ["KEY"]
        assert "hunter2" not in made.text + (await desk.ask("GET", "")).text

    @pytest.mark.parametrize(
        "document",
        [
            {"packages": ["--index-url=https://evil.test"]},
            {"packages": ["../x.whl"]},
            {"packages": ["x; rm"]},
            {"packages": [f"p{n}" for n in range(500)]},
            {"limits": {"wall_s": 601}},
            {"limits": {"memory_mb": -1}},
            {"replicas": 65},
            {"secrets": {"KEY": 1}},
            {"secrets": {"1": "x"}},
            {"network": "host"},
            {"llm": "server"},
        ],
    )
    async def test_refuses_what_it_cannot_mean(self, desk, document):
        assert (await desk.put("tables", **document)).status_code == 400

    async def test_refuses_a_name(self, desk):
        assert (await desk.put("Tables")).status_code == 400

    async def test_refuses_a_file(self, desk):
        desk.write("tables", "description: a file")

        refused = await desk.put("tables")

        assert (refused.status_code, refused.json()["type"]) == (409, "urn:problem:project-fixed")

    async def test_is_the_owners(self, desk):
        await desk.become_a_member()

        assert (await desk.put("tables")).status_code == 403


class TestDelete:
    async def test_removes_a_project(self, desk):
        await desk.put("tables")

        assert (await desk.ask("DELETE", "/tables")).status_code == 204
        assert (await desk.ask("GET", "/tables")).status_code == 404

    async def test_refuses_while_it_is_up(self, desk):
        await desk.put("tables")
        await desk.up("tables")

        assert (await desk.ask("DELETE", "/tables")).status_code == 409

    async def test_is_the_owners(self, desk):
        await desk.become_a_member()

        assert (await desk.ask("DELETE", "/default")).status_code == 403


class TestUp:
    async def test_answers_as_its_clients_know_it(self, desk):
        answer = await desk.up("default", 2)

        assert answer.status_code == 200
        assert answer.json() == {"name": "default", "status": "up", "replicas": 2}

    async def test_keeps_workers_ready(self, desk):
        await desk.up("default", 1)

        async def is_ready():
            return (await desk.read("default"))["idle_workers"] == 1

        await until(is_ready)

    async def test_needs_no_number(self, desk):
        answer = await desk.ask("POST", "/default/up", json={})

        assert answer.json()["replicas"] == 1

    async def test_twice_is_up_once(self, desk):
        await desk.up("default", 1)

        assert (await desk.up("default", 2)).json()["replicas"] == 2

    async def test_with_no_replicas_is_down(self, desk):
        await desk.up("default")

        assert (await desk.up("default", 0)).json() == {
            "name": "default",
            "status": "down",
            "replicas": 0,
        }

    @pytest.mark.parametrize("replicas", [-1, 65, 10**9, 10**30, "2", 1.5, None, True, [1]])
    async def test_refuses_a_number_that_is_none(self, desk, replicas):
        assert (await desk.up("default", replicas)).status_code == 400

    async def test_an_unknown_one_is_not_found(self, desk):
        assert (await desk.up("missing")).status_code == 404

    async def test_tells_what_the_installer_said(self, desk):
        await desk.put("tables", packages=["missing==1"])

        refused = await desk.up("tables")

        assert refused.status_code == 503
        assert "No matching distribution found for missing==1" in refused.json()["log"]
        assert (await desk.read("tables"))["status"] == "down"

    async def test_keeps_what_is_up_when_its_new_version_cannot_be_made(self, desk):
        await desk.put("tables")
        await desk.up("tables")
        await desk.put("tables", packages=["missing==1"])

        refused = await desk.up("tables", 2)

        assert refused.status_code == 503
        assert (await desk.read("tables"))["status"] == "up"

    async def test_names_a_secret_that_the_server_lacks(self, desk):
        await desk.put("tables", secrets={"KEY": "${env:NOT_SET_HERE}"})

        refused = await desk.up("tables")

        assert (refused.status_code, refused.json()["type"]) == (409, "urn:problem:secret-missing")

    async def test_is_the_owners(self, desk):
        await desk.become_a_member()

        assert (await desk.up("default")).status_code == 403


class TestDown:
    async def test_answers_as_its_clients_know_it(self, desk):
        await desk.up("default")

        answer = await desk.down("default")

        assert answer.status_code == 200
        assert answer.json() == {"name": "default", "status": "down", "replicas": 0}

    async def test_of_what_is_down_is_fine(self, desk):
        assert (await desk.down("default")).json()["status"] == "down"

    async def test_an_unknown_one_is_not_found(self, desk):
        assert (await desk.down("missing")).status_code == 404

    async def test_is_the_owners(self, desk):
        await desk.become_a_member()

        assert (await desk.down("default")).status_code == 403
