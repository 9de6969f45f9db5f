"""Executions over HTTP, in the real jail: what is taken on, what comes of it, who may see it."""

import asyncio
from uuid import UUID

import pytest
import pytest_asyncio

from tests.house import AUTHORIZED
from tests.modules.sandbox.desks import ASKS, ENDLESS, FINAL, file, open_desk
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

BURST = 100
REPETITIONS = 20
KB, MB = 1024, 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory):
    data = tmp_path_factory.mktemp("house") / "data"
    async with open_desk(data, SANDBOX_REPLICAS="4") as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(desk):
    return await desk.guest("guest@example.org")


class TestHealth:
    async def test_is_ok_and_public(self, desk):
        answer = await desk.client.get("/sandbox/health")

        assert (answer.status_code, answer.text) == (200, '{"status":"ok"}')


class TestCapabilities:
    async def test_say_how_scripts_are_isolated(self, desk):
        found = (await desk.get("/capabilities")).json()

        assert (found["runner"], found["network"], found["reason"]) == ("jail", False, None)
        assert found["tier"] in {"A", "B"}
        assert {"landlock", "seccomp"} <= {wall["name"] for wall in found["walls"] if wall["is_up"]}

    async def test_say_of_every_missing_wall_why(self, desk):
        walls = (await desk.get("/capabilities")).json()["walls"]

        assert all(wall["why"] for wall in walls if not wall["is_up"])

    async def test_have_the_limits_with_their_units(self, desk):
        limits = (await desk.get("/capabilities")).json()["limits"]

        assert (limits["wall_s"], limits["memory_mb"], limits["queue"]) == (60, 512, 100)

    async def test_are_for_those_who_have_a_key(self, desk):
        assert (await desk.client.get("/sandbox/capabilities")).status_code == 401


class TestExecute:
    async def test_answers_at_once_with_where_to_poll(self, desk):
        answer = await desk.post("/execute", {"code": "print(1)"})

        created = answer.json()
        assert answer.status_code == 202
        assert created == {
            "execution_id": created["execution_id"],
            "status": "pending",
            "poll_url": f"http://127.0.0.1/sandbox/executions/{created['execution_id']}",
        }

    async def test_the_url_to_poll_leads_to_the_result(self, desk):
        created = (await desk.post("/execute", {"code": "set_result({'a': [1, None]})"})).json()

        async def ended():
            read = (await desk.client.get(created["poll_url"], headers=AUTHORIZED)).json()
            return read if read["status"] in FINAL else None

        read = await until(ended)
        assert (read["status"], read["result"]) == ("completed", {"a": [1, None]})

    async def test_the_url_to_poll_leaves_out_what_was_asked(self, desk):
        answer = await desk.post("/execute?wait=0", {"code": "1"})

        assert answer.json()["poll_url"].endswith(answer.json()["execution_id"])

    async def test_with_wait_answers_when_the_script_has_ended(self, desk):
        answer = await desk.post("/execute?wait=1", {"code": "print('hi'); set_result(7)"})

        read = answer.json()
        assert answer.status_code == 200
        assert (read["status"], read["result"], read["stdout"]) == ("completed", 7, "hi\n")

    async def test_with_wait_answers_when_the_script_asks(self, desk):
        read = await desk.run(ASKS)

        assert (read["status"], read["llm_request"]["prompt"]) == ("awaiting_llm", "why?")
        await desk.cancel(read["execution_id"])

    async def test_a_finished_one_has_every_field(self, desk):
        read = await desk.run("import sys; print('out'); print('err', file=sys.stderr)")

        assert UUID(read.pop("execution_id"))
        assert read.pop("created_at") <= read.pop("completed_at")
        assert 0 <= read.pop("execution_time_ms") < 10_000
        assert read == {
            "project": "default",
            "status": "completed",
            "result": None,
            "stdout": "out\n",
            "stderr": "err\n",
            "stdout_truncated": False,
            "stderr_truncated": False,
            "error": None,
            "llm_request": None,
            "memory_updates": {},
            "artifacts": [],
        }

    async def test_ids_cannot_be_guessed(self, desk):
        ids = [await desk.submit("1") for _ in range(8)]

        tails = {UUID(one).int & (1 << 60) - 1 for one in ids}
        assert len(tails) == 8
        assert min(abs(a - b) for a in tails for b in tails if a != b) > 1 << 32

    async def test_needs_a_key(self, desk):
        answer = await desk.client.post("/sandbox/execute", json={"code": "1"})

        assert answer.status_code == 401

    @pytest.mark.parametrize(
        "given",
        [
            {"timeout": 0},
            {"timeout": -1},
            {"timeout": 10**9},
            {"timeout": 10**400},
            {"timeout": 601},
            {"timeout": "sixty"},
            {"timeout": True},
            {"timeout": 1.5},
            {"timeout": None},
            {"settings": {"a": 1}},
            {"settings": {"a": None}},
            {"settings": ["a"]},
            {"memory": []},
            {"memory": "a.b"},
            {"code": None},
            {"code": 7},
            {"project": ""},
            {"project": "x" * 64},
            {"llm": "nobody"},
            {"files": [{"name": "a", "content_base64": "no base64"}]},
            {"files": [{"name": "a"}]},
            {"replicas": 1},
        ],
        ids=str,
    )
    async def test_refuses_what_it_cannot_mean(self, desk, given):
        answer = await desk.refused(**{"code": "1", **given})

        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"code":"1","timeout":NaN}', b"\xff"])
    async def test_refuses_what_is_no_json_object(self, desk, raw):
        headers = {**desk.headers, "content-type": "application/json"}

        answer = await desk.client.post("/sandbox/execute", content=raw, headers=headers)

        assert answer.status_code == 400

    async def test_refuses_a_longer_time_than_the_project_has(self, desk):
        answer = await desk.refused("1", timeout=61)

        assert answer.status_code == 400
        assert answer.json()["limit_s"] == 60

    async def test_an_unknown_project_is_not_found(self, desk):
        answer = await desk.refused("1", project="nothing")

        assert answer.status_code == 404

    async def test_a_project_that_is_down_is_a_conflict(self, desk):
        await desk.project("resting")
        await desk.post("/projects/resting/down")

        answer = await desk.refused("1", project="resting")

        assert answer.status_code == 409
        assert "/projects/resting/up" in answer.json()["detail"]

    @pytest.mark.parametrize(
        "given",
        [
            {"code": "#" * (256 * KB + 1)},
            {"code": "é" * (128 * KB + 1)},
            {"settings": {"a": "x" * 64 * KB}},
            {"memory": {"a.b": "x" * MB}},
            {"files": [file("a", bytes(8 * MB + 1))]},
        ],
        ids=["code", "characters", "settings", "memory", "files"],
    )
    async def test_refuses_what_is_larger_than_the_project_allows(self, desk, given):
        answer = await desk.refused(**{"code": "1", **given})

        assert answer.status_code == 413

    async def test_takes_the_longest_script_that_is_allowed(self, desk):
        read = await desk.run("#" * (256 * KB - 14) + "\nset_result(1)")

        assert read["result"] == 1

    async def test_refuses_a_body_that_is_too_large(self, desk):
        answer = await desk.refused("#" * (16 * MB))

        assert answer.status_code == 413


class TestIdempotency:
    async def test_the_same_key_finds_the_same_execution(self, desk):
        order = {"code": "print(1)"}

        first = await desk.post("/execute", order, **{"idempotency-key": "same"})
        second = await desk.post("/execute", order, **{"idempotency-key": "same"})

        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json()["execution_id"] == second.json()["execution_id"]

    async def test_the_same_key_finds_the_result(self, desk):
        order, key = (
            {"code": "import os; set_result(os.urandom(8).hex())"},
            {"idempotency-key": "r"},
        )

        first = (await desk.post("/execute?wait=1", order, **key)).json()
        second = (await desk.post("/execute?wait=1", order, **key)).json()

        assert first == second

    async def test_another_body_is_a_conflict(self, desk):
        await desk.post("/execute", {"code": "1"}, **{"idempotency-key": "other"})

        answer = await desk.post("/execute", {"code": "2"}, **{"idempotency-key": "other"})

        assert answer.status_code == 409

    async def test_the_key_of_somebody_else_is_another_one(self, desk, guest):
        order, key = {"code": "1"}, {"idempotency-key": "theirs"}

        ours = (await desk.post("/execute", order, **key)).json()
        theirs = (await guest.post("/execute", order, **key)).json()

        assert ours["execution_id"] != theirs["execution_id"]

    async def test_many_at_once_start_one(self, desk):
        order, key = {"code": "print('once')"}, {"idempotency-key": "many"}

        answers = await asyncio.gather(
            *(desk.post("/execute?wait=1", order, **key) for _ in range(REPETITIONS))
        )

        reads = [answer.json() for answer in answers]
        assert {read["stdout"] for read in reads} == {"once\n"}
        assert len({read["execution_id"] for read in reads}) == 1

    @pytest.mark.parametrize("key", ["", "x" * 256])
    async def test_a_key_has_a_size(self, desk, key):
        answer = await desk.post("/execute", {"code": "1"}, **{"idempotency-key": key})

        assert answer.status_code == 400


class TestRead:
    async def test_with_wait_answers_when_it_has_ended(self, desk):
        execution_id = await desk.submit("print('end')")

        read = await desk.waited(execution_id)

        assert (read["status"], read["stdout"]) == ("completed", "end\n")

    async def test_with_wait_of_one_that_has_ended_answers_at_once(self, desk):
        read = await desk.run("print('end')")

        assert await desk.waited(read["execution_id"]) == read

    async def test_a_running_one_shows_what_it_has_printed(self, desk):
        execution_id = await desk.begun(project="default")

        read = await desk.read(execution_id)

        assert (read["status"], read["stdout"]) == ("running", "begun\n")
        assert read["completed_at"] is None
        await desk.cancel(execution_id)

    async def test_says_the_same_when_its_process_has_forgotten_it(self, desk):
        read = await desk.run("print('x'); set_result([1, 'ä']); memory.set('a', 'b', 1)")

        desk.sandbox.executor.live.forget(UUID(read["execution_id"]))

        assert await desk.read(read["execution_id"]) == read

    async def test_many_polls_are_answered(self, desk):
        execution_id = await desk.begun()

        answers = await asyncio.gather(*(desk.read(execution_id) for _ in range(200)))

        assert {answer["status"] for answer in answers} == {"running"}
        await desk.cancel(execution_id)

    @pytest.mark.parametrize(
        "execution_id", ["6f1c1f0e-8f2a-4b7e-9a43-2f6f0f4c9d11", "nonexistent", "exec_a1b2"]
    )
    async def test_an_unknown_one_is_not_found(self, desk, execution_id):
        answers = [
            await desk.get(f"/executions/{execution_id}"),
            await desk.get(f"/executions/{execution_id}?wait=1"),
            await desk.get(f"/executions/{execution_id}/events"),
            await desk.artifact(execution_id, "a"),
            await desk.respond(execution_id, "a"),
            await desk.cancel(execution_id),
        ]

        assert [answer.status_code for answer in answers] == [404] * 6


class TestOthers:
    async def test_find_nothing_of_it(self, desk, guest):
        execution_id, request_id = await desk.asking("save_artifact('a', b'1')\n" + ASKS)

        answers = [
            await guest.get(f"/executions/{execution_id}"),
            await guest.get(f"/executions/{execution_id}?wait=1"),
            await guest.get(f"/executions/{execution_id}/events"),
            await guest.artifact(execution_id, "a"),
            await guest.respond(execution_id, "a", request_id=request_id),
            await guest.cancel(execution_id),
        ]

        assert [answer.status_code for answer in answers] == [404] * 6
        assert (await desk.read(execution_id))["status"] == "awaiting_llm"
        await desk.cancel(execution_id)

    async def test_find_nothing_of_it_when_it_has_ended(self, desk, guest):
        read = await desk.run("save_artifact('a', b'1')")

        assert (await guest.get(f"/executions/{read['execution_id']}")).status_code == 404
        assert (await guest.artifact(read["execution_id"], "a")).status_code == 404

    async def test_do_not_have_it_in_their_list(self, desk, guest):
        ours, theirs = await desk.submit("1"), await guest.submit("1")

        listed = (await guest.get("/executions")).json()["items"]

        ids = [one["execution_id"] for one in listed]
        assert theirs in ids
        assert ours not in ids


class TestList:
    async def test_is_newest_first_in_pages(self, desk):
        someone = await desk.guest("pages@example.org")
        ids = [await someone.submit("1") for _ in range(5)]

        first = (await someone.get("/executions?limit=3")).json()
        second = (await someone.get(f"/executions?limit=3&cursor={first['next']}")).json()

        listed = [one["execution_id"] for one in first["items"] + second["items"]]
        assert listed == ids[::-1]
        assert second["next"] is None

    async def test_is_by_project(self, desk):
        await desk.project("apart")
        await desk.submit("1")
        apart = await desk.submit("1", project="apart")

        listed = (await desk.get("/executions?project=apart")).json()["items"]

        assert [one["execution_id"] for one in listed] == [apart]

    async def test_says_how_each_stands_and_not_what_it_left(self, desk):
        read = await desk.run("print('x'); 1 / 0")

        found = (await desk.get("/executions?limit=1")).json()["items"][0]

        assert found == {
            "execution_id": read["execution_id"],
            "project": "default",
            "status": "error",
            "created_at": read["created_at"],
            "completed_at": found["completed_at"],
            "error": "ZeroDivisionError: division by zero",
        }
        assert found["completed_at"] >= read["completed_at"]

    @pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=x"])
    async def test_refuses_what_it_cannot_mean(self, desk, query):
        assert (await desk.get(f"/executions?{query}")).status_code == 400


class TestCancel:
    async def test_stops_a_running_one_and_keeps_what_it_printed(self, desk):
        execution_id = await desk.begun()

        answer = await desk.cancel(execution_id)

        read = answer.json()
        assert answer.status_code == 200
        assert (read["status"], read["error"]) == ("error", "The execution was cancelled.")
        assert read["stdout"] == "begun\n"
        assert await desk.works()

    async def test_stops_a_paused_one(self, desk):
        execution_id, _ = await desk.asking()

        read = (await desk.cancel(execution_id)).json()

        assert (read["status"], read["error"]) == ("error", "The execution was cancelled.")
        assert (read["llm_request"], read["stdout"]) == (None, "before\n")
        assert (await desk.respond(execution_id, "late")).status_code == 409
        assert await desk.works()

    async def test_stops_one_that_waits_for_a_worker(self, desk):
        await desk.project("queue-of-one")
        first = await desk.begun(project="queue-of-one")
        second = await desk.submit("print('never')", project="queue-of-one")

        read = (await desk.cancel(second)).json()

        assert (read["status"], read["error"]) == ("error", "The execution was cancelled.")
        assert (await desk.read(first))["status"] == "running"
        await desk.cancel(first)
        third = await desk.run("set_result(3)", project="queue-of-one")
        assert third["result"] == 3
        assert (await desk.read(second))["stdout"] == ""

    async def test_may_be_said_twice(self, desk):
        execution_id = await desk.begun()

        first, second = await desk.cancel(execution_id), await desk.cancel(execution_id)

        assert first.json() == second.json()
        assert second.status_code == 200

    async def test_leaves_one_that_has_ended_as_it_is(self, desk):
        read = await desk.run("set_result(1)")

        answer = await desk.cancel(read["execution_id"])

        assert (answer.status_code, answer.json()) == (200, read)

    async def test_at_once_after_the_start_leaves_nothing_running(self, desk):
        ids = [await desk.submit(ENDLESS) for _ in range(5)]

        answers = await asyncio.gather(*(desk.cancel(one) for one in ids))

        assert {answer.json()["status"] for answer in answers} == {"error"}
        assert await desk.works()


class TestRun:
    async def test_is_one_of_the_house(self, desk):
        read = await desk.run("1")

        run = (
            await desk.client.get(f"/api/v1/runs/{read['execution_id']}", headers=AUTHORIZED)
        ).json()

        assert (run["kind"], run["status"]) == ("sandbox.execution", "completed")
        assert run["title"] == "default"

    async def test_cancelled_there_is_cancelled_here(self, desk):
        execution_id = await desk.begun()

        await desk.client.post(f"/api/v1/runs/{execution_id}/cancel", headers=AUTHORIZED)

        read = await desk.is_in(execution_id, "error")
        assert (read["error"], read["stdout"]) == ("The execution was cancelled.", "begun\n")
        assert await desk.works()


class TestQueue:
    async def test_a_burst_is_worked_off(self, desk):
        reads = await asyncio.gather(
            *(desk.run(f"set_result({number})") for number in range(BURST))
        )

        assert [read["result"] for read in reads] == list(range(BURST))
        assert {read["status"] for read in reads} == {"completed"}

    async def test_who_waits_for_a_worker_is_pending(self, desk):
        await desk.project("patient")
        first = await desk.begun(project="patient")

        second = await desk.submit("print('then')", project="patient")

        read = await desk.is_in(second, "pending")
        assert (read["stdout"], read["execution_time_ms"]) == ("", None)
        await desk.cancel(first)
        assert (await desk.waited(second))["stdout"] == "then\n"

    async def test_that_is_full_refuses_and_says_when_to_try_again(self, desk):
        await desk.project("crowded", limits={"queue": 2})
        first = await desk.begun(project="crowded")
        waiting = [await desk.submit("1", project="crowded") for _ in range(2)]

        async def is_full():
            return (await desk.refused("1", project="crowded")).status_code == 429

        await until(is_full)
        answer = await desk.refused("1", project="crowded")

        assert answer.headers["retry-after"] == "1"
        await desk.cancel(first)
        assert [(await desk.waited(one))["status"] for one in waiting] == ["completed"] * 2

    async def test_of_one_project_does_not_stop_another(self, desk):
        await desk.project("clogged", limits={"queue": 3})
        first = await desk.begun(project="clogged")
        waiting = [await desk.submit(ENDLESS, project="clogged") for _ in range(3)]

        assert await desk.works()
        await asyncio.gather(*(desk.cancel(one) for one in [first, *waiting]))


class TestLimits:
    async def test_of_who_is_not_the_owner_are_lowered(self, desk, guest):
        await desk.project("generous", limits={"wall_s": 300, "code_kb": 512, "llm_calls": 100})
        code = "#" * (300 * KB)

        of_owner = await desk.refused("1", project="generous", timeout=200)
        of_guest = await guest.refused("1", project="generous", timeout=200)

        assert (of_owner.status_code, of_guest.status_code) == (202, 400)
        assert of_guest.json()["limit_s"] == 60
        assert (await desk.refused(code, project="generous")).status_code == 202
        assert (await guest.refused(code, project="generous")).status_code == 413

    async def test_reach_the_worker(self, desk, guest):
        await desk.project("roomy", limits={"file_mb": 64, "disk_mb": 128})
        code = "open('/tmp/x', 'wb').write(bytes(48 * 1024**2)); set_result(1)"

        of_owner = await desk.run(code, project="roomy")
        of_guest = await guest.run(code, project="roomy")

        assert of_owner["result"] == 1
        assert of_guest["status"] == "error"
