"""Scripts as nodes, in the sandbox."""

import pytest
import pytest_asyncio

from tests.house import AUTHORIZED
from tests.modules.flows.desk import node, open_desk
from tests.modules.sandbox.jails import passable_folder
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk():
    with passable_folder() as folder:
        variables = {"FEATURE_SANDBOX": "on", "SANDBOX_REPLICAS": "1"}
        async with open_desk(folder / "data", **variables) as desk:
            yield desk


def script(code, *after, **config):
    return node("code", *after, kind="code", config={"code": code, **config})


class TestCode:
    async def test_a_script_finds_its_input_and_gives_its_result(self, desk):
        code = "import json; it = json.load(open('input.json')); set_result(it['x'] + it['y'])"

        ended = await desk.run(script(code), given={"x": 1, "y": 2})

        assert ended["output_data"] == {"code": 3}

    async def test_without_a_result_it_gives_what_it_printed(self, desk):
        ended = await desk.run(script("print('hello')"))

        assert ended["output_data"] == {"code": {"stdout": "hello\n"}}

    async def test_its_error_is_the_nodes(self, desk):
        ended = await desk.run(script("raise ValueError('not so')"))

        assert ended["status"] == "failed"
        assert ended["error_message"] == "code: ValueError: not so"

    async def test_its_time_is_the_nodes(self, desk):
        ended = await desk.run(script("while True: pass", timeout=1))

        assert ended["status"] == "failed"
        assert "1 s" in ended["error_message"]

    async def test_a_cancel_stops_it(self, desk):
        execution_id = await desk.start(await desk.flow(script("while True: pass")))

        async def scripts(status):
            answer = await desk.client.get("/sandbox/executions", headers=AUTHORIZED)
            return [one for one in answer.json()["items"] if one["status"] == status]

        await until(lambda: scripts("running"))
        await desk.done("POST", f"/executions/{execution_id}/cancel")

        async def is_stopped():
            return not await scripts("running")

        await until(is_stopped, within_s=2.0)
