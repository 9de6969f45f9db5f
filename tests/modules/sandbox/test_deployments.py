"""The sandbox as it is installed: on its own paths, without isolation, switched off."""

import pytest

from app.asgi import Insula
from app.kernel.module import MountError
from tests.house import AUTHORIZED, environment, open_house, prepare
from tests.modules.sandbox.desks import open_desk

SEED = ("/execute", "/executions", "/projects", "/health", "/capabilities")


class TestOwnServer:
    async def test_has_the_paths_of_the_contract(self, tmp_path):
        async with open_desk(tmp_path / "data", "/", FEATURE_HEALTH="off") as desk:
            health = await desk.client.get("/health")
            created = (await desk.post("/execute", {"code": "set_result(1)"})).json()
            read = await desk.waited(created["execution_id"])
            projects = (await desk.get("/projects")).json()["projects"]
            up = await desk.post("/projects/default/up", {"replicas": 1})
            down = await desk.post("/projects/default/down")

        assert health.json() == {"status": "ok"}
        assert created["poll_url"] == f"http://127.0.0.1/executions/{created['execution_id']}"
        assert (read["status"], read["result"]) == ("completed", 1)
        assert [project["name"] for project in projects] == ["default"]
        assert up.json() == {"name": "default", "status": "up", "replicas": 1}
        assert down.json() == {"name": "default", "status": "down", "replicas": 0}

    def test_does_not_start_beside_another_health(self, tmp_path):
        house = Insula(environment(tmp_path, FEATURE_SANDBOX="on", SANDBOX_PREFIX="/"))

        with pytest.raises(MountError, match="GET /health belongs to both health and sandbox"):
            house.door()


class TestPrefix:
    async def test_moves_every_path(self, tmp_path):
        async with open_desk(tmp_path / "data", "/airlock/v1") as desk:
            created = (await desk.post("/execute", {"code": "1"})).json()
            before = await desk.client.post("/sandbox/execute", json={}, headers=AUTHORIZED)

        assert created["poll_url"].startswith("http://127.0.0.1/airlock/v1/executions/")
        assert before.status_code == 404


class TestNoIsolation:
    async def test_runs_nothing_and_says_why(self, tmp_path):
        async with open_desk(
            tmp_path / "data", SANDBOX_RUNNER="jail", SANDBOX_MIN_TIER="gvisor"
        ) as desk:
            found = (await desk.get("/capabilities")).json()
            refused = await desk.refused("1")
            up = await desk.post("/projects/default/up", {"replicas": 1})
            health = await desk.get("/health")

        assert (found["tier"], refused.status_code, up.status_code) == ("none", 503, 503)
        assert found["reason"]
        assert refused.json()["detail"] == found["reason"]
        assert health.status_code == 200


class TestNoWorkers:
    async def test_of_the_default_project_are_brought_up_by_its_owner(self, tmp_path):
        async with open_desk(tmp_path / "data", SANDBOX_REPLICAS="0") as desk:
            down = await desk.refused("1")
            await desk.post("/projects/default/up", {"replicas": 1})

            assert down.status_code == 409
            assert await desk.works()


class TestNoGateway:
    async def test_refuses_scripts_that_shall_be_answered_by_it(self, tmp_path):
        async with open_desk(tmp_path / "data", FEATURE_ROUTING="off") as desk:
            refused = await desk.refused("llm.complete('?')", llm="gateway")

            assert refused.status_code == 503
            assert await desk.works()


class TestOff:
    async def test_leaves_no_path(self, tmp_path):
        data = prepare(tmp_path / "data")
        async with open_house(data, FEATURE_SANDBOX="off") as (_, client):
            found = [await client.get(f"/sandbox{path}", headers=AUTHORIZED) for path in SEED]

        assert {answer.status_code for answer in found} == {404}
