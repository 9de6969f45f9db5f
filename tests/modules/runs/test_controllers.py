"""Runs over HTTP."""

import json
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from app.modules.runs.api import Ended, Kind, Runs, Turn, Wish
from tests.house import open_house, prepare
from tests.modules.runs.works import Gate, at_once
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Desk:
    """The house with kinds of runs, and one of its users at a time."""

    def __init__(self, house, client) -> None:
        self.client = client
        self.house = house
        self.runs = house.kit.use(Runs)
        self.runs.offer(Kind("test", at_once))
        self.runs.offer(Kind("gate", self._wait))

    async def begin(self) -> None:
        """Be somebody who has no runs, at a gate that nobody has come to."""
        self.gate = Gate()
        self.headers = await self.somebody()
        answer = await self.client.get("/api/v1/auth/me", headers=self.headers)
        self.user_id = UUID(answer.json()["id"])

    async def somebody(self) -> dict[str, str]:
        """The headers of a new user."""
        body = {"email": f"{uuid4().hex}@example.org", "password": "correct horse battery"}
        answer = await self.client.post("/api/v1/auth/register", json=body)
        return {"authorization": f"Bearer {answer.json()['access_token']}"}

    async def start(self, kind: str = "test") -> str:
        async with self.house.kit.db.begin() as session:
            run, _ = await self.runs.start(session, Wish(self.user_id, kind, title="one"))
        return str(run.id)

    async def get(self, path: str, **headers: str):
        return await self.client.get(f"/api/v1/runs{path}", headers=self.headers | headers)

    async def cancel(self, run_id: object):
        return await self.client.post(f"/api/v1/runs/{run_id}/cancel", headers=self.headers)

    async def ended(self, run_id: str) -> dict:
        async def found():
            run = (await self.get(f"/{run_id}")).json()
            return run if run["ended_at_ms"] else None

        return await until(found)

    async def _wait(self, turn: Turn) -> Ended:
        return await self.gate.work(turn)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_desk(tmp_path_factory):
    async with open_house(prepare(tmp_path_factory.mktemp("house") / "data")) as (house, client):
        yield Desk(house, client)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(one_desk):
    """One house for all tests of this file, and somebody else in each."""
    await one_desk.begin()
    yield one_desk
    one_desk.gate.may_end.set()


def frames(text: str) -> list[tuple[str, str, dict]]:
    """Id, name and data of each event."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        found.append((lines["id"], lines["event"], json.loads(lines["data"])))
    return found


class TestRead:
    async def test_a_run_says_what_it_is_and_how_it_ended(self, desk):
        run = await desk.ended(await desk.start())

        assert (run["kind"], run["title"], run["status"]) == ("test", "one", "completed")
        assert run["last_seq"] == 5
        assert run["created_at_ms"] <= run["started_at_ms"] <= run["ended_at_ms"]
        assert run["error"] is None

    async def test_lists_newest_first_in_pages(self, desk):
        ids = [await desk.start() for _ in range(5)]
        for run_id in ids:
            await desk.ended(run_id)

        first = (await desk.get("?limit=3")).json()
        second = (await desk.get(f"?limit=3&cursor={first['next']}")).json()

        assert [run["id"] for run in first["items"] + second["items"]] == ids[::-1]
        assert second["next"] is None

    async def test_lists_by_kind_and_status(self, desk):
        waiting, done = await desk.start("gate"), await desk.start()
        await desk.ended(done)

        by_kind = (await desk.get("?kind=gate")).json()["items"]
        by_status = (await desk.get("?status=completed")).json()["items"]

        assert [run["id"] for run in by_kind] == [waiting]
        assert [run["id"] for run in by_status] == [done]

    @pytest.mark.parametrize(
        "path", ["?limit=0", "?limit=501", "?cursor=x", "?status=lost", "/not-an-id"]
    )
    async def test_refuses_what_it_cannot_mean(self, desk, path):
        assert (await desk.get(path)).status_code in {400, 404}

    async def test_an_unknown_one_is_not_found(self, desk):
        for path in ("", "/events"):
            assert (await desk.get(f"/{uuid4()}{path}")).status_code == 404


class TestEvents:
    async def test_come_whole_and_end_with_the_run(self, desk):
        answer = await desk.get(f"/{await desk.start()}/events")

        found = frames(answer.text)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [number for number, _, _ in found] == ["1", "2", "3", "4", "5"]
        assert [name for _, name, _ in found] == ["status", "status", "output", "result", "status"]
        assert found[2][2]["text"] == "hello"
        assert found[4][2]["status"] == "completed"

    async def test_go_on_behind_the_last_one_seen(self, desk):
        run_id = await desk.start()
        await desk.ended(run_id)

        answer = await desk.get(f"/{run_id}/events", **{"last-event-id": "3"})

        assert [number for number, _, _ in frames(answer.text)] == ["4", "5"]

    @pytest.mark.parametrize("given", ["-1", "x", "9" * 19, "1.5"])
    async def test_refuse_an_id_that_is_none(self, desk, given):
        run_id = await desk.start()

        assert (await desk.get(f"/{run_id}/events", **{"last-event-id": given})).status_code == 400


class TestCancel:
    async def test_ends_it_and_stops_the_work(self, desk):
        run_id = await desk.start("gate")
        await until(lambda: desk.gate.begun)

        answer = await desk.cancel(run_id)
        again = await desk.cancel(run_id)

        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert again.json() == answer.json()
        await until(lambda: desk.gate.cancelled)

    async def test_an_unknown_one_is_not_found(self, desk):
        answer = await desk.cancel(uuid4())

        assert answer.status_code == 404


class TestOthers:
    async def test_see_nothing_of_it_and_change_nothing(self, desk):
        run_id = await desk.start("gate")
        bert = await desk.somebody()
        path = f"/api/v1/runs/{run_id}"

        seen = [
            (await desk.client.get(path, headers=bert)).status_code,
            (await desk.client.get(f"{path}/events", headers=bert)).status_code,
            (await desk.client.post(f"{path}/cancel", headers=bert)).status_code,
        ]

        assert seen == [404, 404, 404]
        assert (await desk.client.get("/api/v1/runs", headers=bert)).json()["items"] == []
        assert desk.gate.cancelled == 0
