"""What a script prints and does, as it comes, and what is left of it afterwards."""

import asyncio

import psutil
import pytest
import pytest_asyncio

from tests.modules.sandbox.desks import ASKS, Following, open_desk
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KB, MB = 1024, 1024 * 1024
# What floods of 32 MiB may leave in a server: what is kept of them, and what the allocator keeps.
GROWTH_LIMIT_BYTES = 24 * MB


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory):
    async with open_desk(tmp_path_factory.mktemp("house") / "data") as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def follow(desk):
    """Follow executions as they go; every follower hangs up when the test is over."""
    followers: list[Following] = []

    def begin(execution_id: str, after: str = "") -> Following:
        followers.append(Following(desk, execution_id, after))
        return followers[-1]

    yield begin
    for one in followers:
        one.hang_up()
    await asyncio.gather(*(one.reading for one in followers), return_exceptions=True)


def texts(frames, name: str = "stdout") -> str:
    return "".join(frame.data["text"] for frame in frames if frame.name == name)


class TestEvents:
    async def test_tell_a_script_from_its_beginning_to_its_result(self, desk):
        read = await desk.run("print('x')")

        assert await desk.story(read["execution_id"]) == [
            "pending",
            "running",
            "completed",
            "stdout",
            "result",
        ]

    async def test_end_with_what_a_poll_says(self, desk):
        read = await desk.run("print('x'); set_result({'a': 1}); memory.set('a', 'b', 2)")

        last = (await desk.events(read["execution_id"]))[-1]

        assert (last.name, last.data) == ("result", read)

    async def test_are_numbered_upwards(self, desk):
        execution_id, _ = await desk.asking()
        await desk.respond(execution_id, "x")

        numbers = [int(frame.id) for frame in await desk.events(execution_id) if frame.id]

        assert numbers == sorted(set(numbers))
        assert numbers[0] == 1

    async def test_have_each_question_with_the_id_that_answers_it(self, desk):
        execution_id, request_id = await desk.asking()
        await desk.respond(execution_id, "x")

        told = await desk.events(execution_id)

        asked = [frame.data for frame in told if frame.name == "llm_request"]
        assert asked == [{"prompt": "why?", "model": "default", "request_id": request_id}]

    async def test_tell_each_state_once(self, desk):
        execution_id, _ = await desk.asking()
        await desk.respond(execution_id, "x")

        told = await desk.events(execution_id)

        assert [frame.word for frame in told if frame.name == "status"] == [
            "pending",
            "running",
            "awaiting_llm",
            "running",
            "completed",
        ]

    async def test_do_not_have_the_answer(self, desk):
        execution_id, _ = await desk.asking("llm.complete('?')")
        await desk.respond(execution_id, "only for the script")

        told = await desk.events(execution_id)

        assert all("only for the script" not in str(frame.data) for frame in told)

    @pytest.mark.parametrize(
        ("code", "end"),
        [("1 / 0", "error"), ("while True: pass", "timeout")],
    )
    async def test_end_with_how_it_failed(self, desk, code, end):
        read = await desk.run(f"print('before', flush=True)\n{code}", timeout=1)

        told = await desk.events(read["execution_id"])

        assert [frame.word for frame in told if frame.name == "status"][-1] == end
        assert told[-1].data["status"] == end
        assert texts(told) == "before\n"

    async def test_have_what_was_printed_before_a_cancel(self, desk):
        execution_id = await desk.begun()
        await desk.cancel(execution_id)

        told = await desk.events(execution_id)

        assert texts(told) == "begun\n"
        assert told[-1].data["error"] == "The execution was cancelled."


class TestFollowing:
    async def test_hears_what_is_printed_before_the_script_ends(self, desk, follow):
        execution_id = await desk.submit(
            "print('one', flush=True)\nllm.complete('?')\nprint('two')"
        )

        heard = follow(execution_id)

        await until(lambda: texts(heard.frames) == "one\n")
        assert (await desk.is_in(execution_id, "awaiting_llm"))["stdout"] == "one\n"
        assert heard.frames[-1].name != "result"
        await desk.respond(execution_id, "x")
        await heard.reading
        assert texts(heard.frames) == "one\ntwo\n"
        assert heard.frames[-1].name == "result"

    async def test_hears_a_running_script(self, desk, follow):
        execution_id = await desk.submit("import time\nprint('now', flush=True)\ntime.sleep(600)")

        heard = follow(execution_id)

        await until(lambda: texts(heard.frames) == "now\n")
        assert (await desk.read(execution_id))["status"] == "running"
        await desk.cancel(execution_id)
        await heard.reading
        assert heard.frames[-1].data["status"] == "error"

    async def test_hears_both_streams_apart(self, desk, follow):
        code = (
            "import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr)\nllm.complete('?')"
        )
        execution_id, _ = await desk.asking(code)

        heard = follow(execution_id)

        await until(lambda: texts(heard.frames) == "out\n")
        await until(lambda: texts(heard.frames, "stderr") == "err\n")
        await desk.cancel(execution_id)

    async def test_hears_what_was_before_it_came(self, desk, follow):
        execution_id, _ = await desk.asking()

        heard = follow(execution_id)

        await until(lambda: heard.frames and heard.frames[-1].word == "awaiting_llm")
        assert texts(heard.frames) == "before\n"
        assert heard.frames[0].word == "pending"
        await desk.cancel(execution_id)

    async def test_goes_on_behind_the_last_one_seen(self, desk, follow):
        execution_id, _ = await desk.asking(f"{ASKS}\nprint('after')")
        first = follow(execution_id)
        await until(lambda: first.frames and first.frames[-1].word == "awaiting_llm")
        last_id = first.frames[-1].id
        first.hang_up()
        await desk.respond(execution_id, "x")
        await desk.waited(execution_id)

        told = await desk.events(execution_id, after=last_id)

        assert [frame.word for frame in told] == ["running", "completed", "stdout", "result"]
        assert texts(told) == "after\n"

    async def test_behind_the_end_hears_the_result_alone(self, desk):
        read = await desk.run("set_result(1)")
        last_id = [frame.id for frame in await desk.events(read["execution_id"]) if frame.id][-1]

        told = await desk.events(read["execution_id"], after=last_id)

        assert [frame.name for frame in told] == ["result"]

    @pytest.mark.parametrize("given", ["x", "-1", "1.5", "9" * 19])
    async def test_refuses_an_id_that_is_none(self, desk, given):
        read = await desk.run("1")

        answer = await desk.get(
            f"/executions/{read['execution_id']}/events", **{"last-event-id": given}
        )

        assert answer.status_code == 400

    async def test_by_many_costs_the_script_nothing(self, desk, follow):
        execution_id, _ = await desk.asking()
        heard = [follow(execution_id) for _ in range(20)]
        await until(lambda: all(one.frames for one in heard))
        await desk.respond(execution_id, "x")

        await asyncio.gather(*(one.reading for one in heard))

        first = [frame.word for frame in heard[0].frames]
        assert all([frame.word for frame in one.frames] == first for one in heard)
        assert "completed" in first
        assert first[-1] == "result"

    async def test_that_hangs_up_leaves_the_script_alone(self, desk, follow):
        execution_id, _ = await desk.asking()
        heard = follow(execution_id)
        await until(lambda: heard.frames)

        heard.hang_up()
        await heard.reading

        assert (await desk.read(execution_id))["status"] == "awaiting_llm"
        await desk.cancel(execution_id)

    async def test_of_somebody_elses_is_not_found(self, desk, follow):
        guest = await desk.guest("listener@example.org")
        read = await desk.run("1")

        answer = await guest.get(f"/executions/{read['execution_id']}/events")

        assert answer.status_code == 404


class TestOutput:
    async def test_keeps_its_order_and_every_character(self, desk):
        code = "for n in range(2000): print(n, 'ä')"

        read = await desk.run(code)

        assert read["stdout"] == "".join(f"{n} ä\n" for n in range(2000))
        assert not read["stdout_truncated"]

    async def test_of_c_code_and_other_processes_is_there(self, desk):
        code = """
import os
os.write(1, b'raw\\n')
os.write(2, b'error\\n')
os.system('echo shell')
"""
        read = await desk.run(code)

        assert (read["stdout"].splitlines()[0], read["stderr"]) == ("raw", "error\n")

    async def test_that_is_no_text_is_shown_as_far_as_it_is(self, desk):
        read = await desk.run(r"import os; os.write(1, b'a\xff\x00b\n\x1b[31mred')")

        assert read["stdout"] == "a\ufffd\ufffdb\n\x1b[31mred"

    async def test_that_is_long_keeps_its_head_and_its_tail(self, desk):
        code = "print('head'); print('x' * 3_000_000); print('tail', end='')"

        read = await desk.run(code)

        assert (read["status"], read["stdout_truncated"]) == ("completed", True)
        assert read["stdout"].startswith("head\n")
        assert read["stdout"].endswith("tail")
        assert "bytes left out" in read["stdout"]
        assert len(read["stdout"]) < MB + 100
        assert not read["stderr_truncated"]

    async def test_that_is_long_is_told_in_part(self, desk):
        read = await desk.run("print('head'); print('x' * 3_000_000); print('tail', end='')")

        told = await desk.events(read["execution_id"])

        assert texts(told).startswith("head\n")
        assert len(texts(told)) < MB + 100
        assert told[-1].data["stdout_truncated"]

    async def test_without_an_end_is_stopped(self, desk):
        await desk.project("talking", limits={"output_mb": 2})

        read = await desk.run("while True: print('x' * 65536)", project="talking")

        assert (read["status"], read["stdout_truncated"]) == ("error", True)
        assert read["error"] == "The script printed more than 2 MiB."
        assert await desk.works()

    async def test_without_an_end_leaves_the_server_as_large_as_it_was(self, desk):
        await desk.project("noisy", limits={"output_mb": 4})
        flood = "while True: print('x' * 65536)"
        await desk.run(flood, project="noisy")
        before = psutil.Process().memory_info().rss

        for _ in range(8):
            await desk.run(flood, project="noisy")

        assert psutil.Process().memory_info().rss - before < GROWTH_LIMIT_BYTES

    async def test_in_one_line_is_stopped_too(self, desk):
        await desk.project("shouting", limits={"output_mb": 1})
        code = "import os\nwhile True: os.write(2, b'x' * 65536)"

        read = await desk.run(code, project="shouting")

        assert (read["status"], read["stderr_truncated"]) == ("error", True)
        assert len(read["stderr"]) < 256 * KB + 100
