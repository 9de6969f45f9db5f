"""What becomes of executions when the server stops: nothing is lost, nothing is run twice."""

from typing import Any

import msgspec
import pytest
import pytest_asyncio

from tests.modules.sandbox.desks import Desk, open_desk

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_AGAIN = "The server stopped while the script ran. It is not run a second time."
KEY = {"idempotency-key": "kept"}


class Left(msgspec.Struct):
    """What a house had under way when it was closed."""

    ended: dict[str, Any]
    paused: str
    request_id: str
    running: str
    queued: list[str]
    coming: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stopped(tmp_path_factory):
    """A house that has one worker at a time was closed, and is opened again."""
    data = tmp_path_factory.mktemp("house") / "data"
    async with open_desk(data, SANDBOX_REPLICAS="1") as desk:
        left = await _left(desk)
    async with open_desk(data, SANDBOX_REPLICAS="1") as desk:
        yield desk, left


async def _left(desk: Desk) -> Left:
    await desk.project("kept")
    await desk.project("resting")
    await desk.post("/projects/resting/down")
    order = {"code": "print('x'); set_result(1); save_artifact('a', b'1')"}
    ended = (await desk.post("/execute?wait=1", order, **KEY)).json()
    paused, request_id = await desk.asking()
    running = await desk.begun()
    queued = [await desk.submit(f"set_result({number})") for number in range(3)]
    for one in queued:
        await desk.heard(one, "queued")
    return Left(ended, paused, request_id, running, queued, await desk.submit("set_result('new')"))


class TestStop:
    async def test_ends_a_running_one_and_says_so(self, stopped):
        desk, left = stopped

        read = await desk.is_in(left.running, "error")

        assert read["error"] == NOT_AGAIN

    async def test_keeps_what_a_running_one_has_printed(self, stopped):
        desk, left = stopped

        read = await desk.waited(left.running)

        assert read["stdout"] == "begun\n"

    async def test_lets_its_events_end_with_what_a_poll_says(self, stopped):
        desk, left = stopped

        told = await desk.events(left.running)

        assert told[-1].data == await desk.read(left.running)

    async def test_ends_a_paused_one_and_says_so(self, stopped):
        desk, left = stopped

        read = await desk.is_in(left.paused, "error")

        assert (read["error"], read["llm_request"]) == (NOT_AGAIN, None)
        assert read["stdout"] == "before\n"

    async def test_lets_nobody_answer_a_paused_one(self, stopped):
        desk, left = stopped

        late = await desk.respond(left.paused, "late", request_id=left.request_id)

        assert late.status_code == 409

    async def test_leaves_queued_ones_to_the_next_start(self, stopped):
        desk, left = stopped

        reads = [await desk.waited(one) for one in left.queued]

        assert [(read["status"], read["result"]) for read in reads] == [
            ("completed", number) for number in range(3)
        ]

    async def test_leaves_one_that_has_just_come_to_the_next_start(self, stopped):
        desk, left = stopped

        read = await desk.waited(left.coming)

        assert (read["status"], read["result"]) == ("completed", "new")

    async def test_keeps_what_has_ended(self, stopped):
        desk, left = stopped

        answer = await desk.artifact(left.ended["execution_id"], "a")

        assert await desk.read(left.ended["execution_id"]) == left.ended
        assert answer.content == b"1"

    async def test_keeps_idempotency_keys(self, stopped):
        desk, left = stopped
        order = {"code": "print('x'); set_result(1); save_artifact('a', b'1')"}

        again = await desk.post("/execute?wait=1", order, **KEY)

        assert again.json() == left.ended

    async def test_keeps_projects_up_that_were_up(self, stopped):
        desk, _ = stopped

        assert (await desk.run("set_result(1)", project="kept"))["result"] == 1

    async def test_keeps_projects_down_that_were_down(self, stopped):
        desk, _ = stopped

        assert (await desk.refused("1", project="resting")).status_code == 409
