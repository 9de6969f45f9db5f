"""Executions over HTTP: started, done, stopped, listed, followed."""

import asyncio
import json
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.house import AUTHORIZED
from tests.modules.flows.desk import node, open_desk
from tests.modules.flows.scripted_agent import HOSTILE, says
from tests.waiting import until

QUICK = {"retry": {"attempts": 3, "backoff_s": 0}}
CACHED = {"cache": {"ttl_s": 60}}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_desk(tmp_path_factory):
    async with open_desk(tmp_path_factory.mktemp("desk") / "data") as desk:
        yield desk


@pytest_asyncio.fixture(loop_scope="module")
async def desk(one_desk):
    """One house for all tests of this file: what it starts with costs more than they do."""
    await one_desk.tidy()
    return one_desk


class TestExecute:
    async def test_answers_at_once_what_the_clients_expect(self, desk):
        desk.agent.gate.clear()
        flow_id = await desk.flow(node("a"))

        wanted = {"flow_id": flow_id, "input_data": {"x": 1}}
        answer = await desk.ask("POST", "/flows/execute", json=wanted)

        told = answer.json()
        assert answer.status_code == 200
        assert told["status"] == "pending"
        assert told["flow_id"] == flow_id
        assert told["created_at"].endswith("Z")
        assert {told[name] for name in ("result", "error", "execution_time")} == {None}

    async def test_gives_each_node_the_input_and_what_its_dependencies_gave(self, desk):
        desk.agent.answer = lambda call: {call.node_id: call.input, "last": call.node_id}

        ended = await desk.run(node("a"), node("b", "a"), given={"x": 1})

        assert ended["status"] == "completed"
        assert ended["output_data"]["b"] == {
            "b": {"x": 1, "a": {"x": 1}, "last": "a"},
            "last": "b",
        }

    async def test_the_output_is_that_of_the_exits(self, desk):
        ended = await desk.run(node("a"), node("b", "a"), node("c", "a"))

        assert ended["output_data"] == {"b": {"done": "b"}, "c": {"done": "c"}}

    async def test_branches_run_side_by_side(self, desk):
        desk.agent.gate.clear()
        flow_id = await desk.flow(node("a"), node("b"), node("c", "a", "b"))

        execution_id = await desk.start(flow_id)
        await until(lambda: len(desk.agent.calls) == 2)
        desk.agent.gate.set()
        ended = await desk.end(execution_id)

        assert ended["status"] == "completed"

    async def test_a_diamond_takes_less_than_the_sum_of_its_nodes(self, desk):
        # Two at once spare this much; what is written between the nodes takes far less.
        desk.agent.delay_s = 0.5
        diamond = (node("a"), node("b", "a"), node("c", "a"), node("d", "b", "c"))

        ended = await desk.run(*diamond)

        took_ms = sum(one["execution_time_ms"] for one in ended["node_results"].values())
        assert ended["execution_time"] * 1000 < took_ms

    async def test_input_and_output_nodes_without_an_agent_pass_on(self, desk):
        ends = [node("in", type="input"), node("a", "in"), node("out", "a", type="output")]

        ended = await desk.run(*ends, given={"x": 1})

        assert ended["output_data"] == {"out": {"x": 1, "done": "a"}}

    async def test_what_the_call_says_reaches_the_agent(self, desk):
        config = {"system_prompt": "Be brief.", "timeout": 5}

        ended = await desk.run(node("a", config=config), given={"x": 1})

        [call] = desk.agent.calls
        assert call.body == {
            "execution_id": ended["execution_id"],
            "node_id": "a",
            "input": {"x": 1},
            "config": {"system_prompt": "Be brief."},
        }

    async def test_an_unknown_flow_is_404(self, desk):
        answer = await desk.ask("POST", "/flows/execute", json={"flow_id": "none"})

        assert answer.status_code == 404
        assert answer.json()["error_code"] == "NO_SUCH_FLOW"

    @pytest.mark.parametrize(
        ("wanted", "word"),
        [
            ({"flow_id": "f", "priority": 11}, "priority"),
            ({"flow_id": "f", "timeout": 0}, "timeout"),
            ({"flow_id": "f", "input_data": []}, "input_data"),
            ({"flow_id": "f", "inputs": {}}, "inputs"),
            ({"flow_id": "no such/id"}, "flow_id"),
            ({}, "flow_id"),
        ],
    )
    async def test_a_bad_order_names_what_is_wrong(self, desk, wanted, word):
        answer = await desk.ask("POST", "/flows/execute", json=wanted)

        told = answer.json()
        assert answer.status_code == 400
        assert word in json.dumps(told)
        assert told["message"] == told["detail"]

    async def test_too_much_input_is_413(self, desk):
        flow_id = await desk.flow(node("a"))

        wanted = {"flow_id": flow_id, "input_data": {"x": "x" * 2**20}}
        answer = await desk.ask("POST", "/flows/execute", json=wanted)

        assert (answer.status_code, answer.json()["error_code"]) == (413, "INPUT_TOO_LARGE")

    async def test_input_that_is_nested_too_deep_is_400(self, desk):
        flow_id = await desk.flow(node("a"))
        deep = json.loads("[" * 101 + "]" * 101)

        wanted = {"flow_id": flow_id, "input_data": {"x": deep}}
        answer = await desk.ask("POST", "/flows/execute", json=wanted)

        assert (answer.status_code, answer.json()["error_code"]) == (400, "INPUT_TOO_DEEP")

    async def test_the_same_key_starts_nothing_twice(self, desk):
        flow_id = await desk.flow(node("a"))

        first = await desk.start(flow_id, key="k")
        second = await desk.start(flow_id, key="k")
        await desk.end(first)

        assert first == second
        assert len(desk.agent.calls) == 1

    async def test_the_same_key_for_something_else_is_409(self, desk):
        flow_id = await desk.flow(node("a"))
        await desk.start(flow_id, key="other")

        wanted = {"flow_id": flow_id, "input_data": {"other": 1}}
        answer = await desk.ask(
            "POST", "/flows/execute", json=wanted, headers={"idempotency-key": "other"}
        )

        assert answer.status_code == 409

    async def test_runs_the_version_that_was_asked_for(self, desk):
        flow_id = await desk.flow(node("old"))
        await desk.done("PUT", f"/flows/{flow_id}", json={"nodes": [node("new")]})

        ended = await desk.end(await desk.start(flow_id, version="1.0.0"))

        assert (ended["flow_version"], list(ended["node_results"])) == ("1.0.0", ["old"])

    async def test_runs_what_the_flow_has_become_since_the_last_time(self, desk):
        flow_id = await desk.flow(node("old"))
        await desk.end(await desk.start(flow_id))
        await desk.done("PUT", f"/flows/{flow_id}", json={"nodes": [node("new")]})

        ended = await desk.end(await desk.start(flow_id))

        assert list(ended["node_results"]) == ["new"]

    async def test_a_flow_that_was_deleted_since_the_last_time_is_not_found(self, desk):
        flow_id = await desk.flow(node("a"))
        await desk.end(await desk.start(flow_id))
        await desk.done("DELETE", f"/flows/{flow_id}")

        answer = await desk.ask("POST", "/flows/execute", json={"flow_id": flow_id})

        assert answer.status_code == 404

    async def test_a_change_of_the_flow_does_not_reach_what_runs(self, desk):
        desk.agent.gate.clear()
        flow_id = await desk.flow(node("a"), node("old", "a"))
        execution_id = await desk.start(flow_id)
        await until(lambda: desk.agent.calls)

        await desk.done("PUT", f"/flows/{flow_id}", json={"nodes": [node("a"), node("new", "a")]})
        desk.agent.gate.set()
        ended = await desk.end(execution_id)

        assert list(ended["output_data"]) == ["old"]

    async def test_both_path_trees_are_the_same(self, desk):
        flow_id = await desk.flow(node("a"))

        wanted = {"flow_id": flow_id}
        started = await desk.done("POST", "/api/v1/flows/execute", json=wanted)
        await desk.end(started["execution_id"])
        read = await desk.done("GET", f"/api/v1/executions/{started['execution_id']}")

        assert read["status"] == "completed"


class TestConditional:
    CONDITIONS = (
        {"when": "input.score >= 5", "then": ["good"]},
        {"else": ["bad"]},
    )

    @pytest.mark.parametrize(("score", "taken", "left"), [(5, "good", "bad"), (4, "bad", "good")])
    async def test_goes_one_way(self, desk, score, taken, left):
        which = node("which", type="conditional", conditions=list(self.CONDITIONS))

        ended = await desk.run(
            which, node("good", "which"), node("bad", "which"), given={"score": score}
        )

        assert [call.node_id for call in desk.agent.calls] == [taken]
        assert ended["node_results"][left]["status"] == "skipped"
        assert list(ended["output_data"]) == [taken]

    async def test_an_expression_that_fails_fails_the_execution_and_names_the_node(self, desk):
        which = node("which", type="conditional", conditions=list(self.CONDITIONS))

        ended = await desk.run(which, node("good", "which"), node("bad", "which"))

        assert ended["status"] == "failed"
        assert ended["error_message"].startswith("which: ")
        assert desk.agent.calls == []


class TestFailure:
    async def test_an_agents_error_is_the_nodes_and_the_executions(self, desk):
        desk.agent.behaviour = says({"status": "error", "error_message": "No funds."})

        ended = await desk.run(node("a"), node("b", "a"))

        assert (ended["status"], ended["error_code"]) == ("failed", "node_failed")
        assert "No funds." in ended["error_message"]
        assert ended["node_results"]["a"]["status"] == "failed"
        assert "b" not in ended["node_results"]

    async def test_what_other_nodes_gave_is_kept(self, desk):
        await desk.register("broken", endpoint=desk.agent.url + "/nowhere")
        broken = node("broken", "a", agent_id="broken")

        ended = await desk.run(node("a"), broken)

        assert ended["node_results"]["a"]["output_data"] == {"done": "a"}

    async def test_stops_the_nodes_beside_it(self, desk):
        await desk.register("broken", endpoint=desk.agent.url + "/nowhere")
        desk.agent.gate.clear()

        ended = await desk.run(node("slow"), node("broken", agent_id="broken"))

        assert ended["status"] == "failed"
        await until(lambda: desk.agent.cut == 1)
        assert ended["node_results"]["slow"]["status"] == "failed"

    async def test_a_node_has_its_own_time(self, desk):
        desk.agent.gate.clear()

        ended = await desk.run(node("a", config={"timeout": 0.1}))

        assert ended["status"] == "failed"
        assert "0.1 s" in ended["error_message"]

    async def test_the_whole_has_its_time(self, desk):
        desk.agent.gate.clear()
        flow_id = await desk.flow(node("a"))

        ended = await desk.end(await desk.start(flow_id, timeout=0.1))

        assert (ended["status"], ended["error_code"]) == ("failed", "timeout")
        await until(lambda: desk.agent.cut == len(desk.agent.calls))

    async def test_an_agent_that_was_removed_meanwhile_fails_its_node(self, desk):
        desk.agent.gate.clear()
        await desk.register("other")
        execution_id = await desk.start(
            await desk.flow(node("a"), node("b", "a", agent_id="other"))
        )
        await until(lambda: desk.agent.calls)

        await desk.done("DELETE", "/agents/other")
        desk.agent.gate.set()
        ended = await desk.end(execution_id)

        assert ended["status"] == "failed"
        assert "other" in ended["error_message"]


class TestHostileAgent:
    @pytest.mark.parametrize("name", sorted(HOSTILE))
    async def test_fails_its_node_and_nothing_else(self, desk, name):
        desk.agent.behaviour = HOSTILE[name]

        ended = await desk.run(node("a", config={"timeout": 1}))
        desk.agent.reset()
        after = await desk.run(node("a"))

        assert ended["status"] == "failed"
        assert ended["error_message"].startswith("a: ")
        assert ended["node_results"]["a"]["error_message"]
        assert after["status"] == "completed"


class TestRetry:
    async def test_tries_again_when_the_agent_refuses(self, desk):
        desk.agent.behaviour = says({"status": "error", "error_message": "Busy."}, 503)

        ended = await desk.run(node("a", config=QUICK))

        assert ended["status"] == "failed"
        assert len(desk.agent.calls) == 3

    async def test_goes_on_when_a_later_attempt_succeeds(self, desk):
        left = [Exception("twice"), Exception("twice")]

        def answer(call):
            if left:
                raise left.pop()
            return {"at": "last"}

        desk.agent.answer = answer
        ended = await desk.run(node("a", config=QUICK))

        assert ended["output_data"] == {"a": {"at": "last"}}
        assert ended["node_results"]["a"]["attempts"] == 3

    async def test_does_not_repeat_what_may_have_been_done(self, desk):
        desk.agent.gate.clear()

        ended = await desk.run(node("a", config={**QUICK, "timeout": 0.1}))

        assert ended["status"] == "failed"
        assert len(desk.agent.calls) == 1

    async def test_repeats_what_was_declared_harmless(self, desk):
        desk.agent.gate.clear()
        config = {**QUICK, "timeout": 0.1, "idempotent": True}

        await desk.run(node("a", config=config))

        assert len(desk.agent.calls) == 3
        assert len(desk.agent.counts) == 1


class TestCache:
    async def test_the_same_input_is_not_done_twice(self, desk):
        flow_id = await desk.flow(node("a", config=CACHED))

        await desk.end(await desk.start(flow_id, input_data={"x": 1}))
        ended = await desk.end(await desk.start(flow_id, input_data={"x": 1}))

        assert len(desk.agent.calls) == 1
        assert ended["node_results"]["a"]["cached"] is True
        assert ended["output_data"] == {"a": {"done": "a"}}

    async def test_another_input_is_done(self, desk):
        flow_id = await desk.flow(node("a", config=CACHED))

        await desk.end(await desk.start(flow_id, input_data={"x": 3}))
        await desk.end(await desk.start(flow_id, input_data={"x": 4}))

        assert len(desk.agent.calls) == 2


class TestInnerFlow:
    async def test_a_flow_is_a_node(self, desk):
        inner = await desk.flow(node("x"), node("y", "x"))
        review = node("review", "a", kind="flow", config={"flow_id": inner})

        ended = await desk.run(node("a"), review)

        assert ended["output_data"] == {"review": {"y": {"done": "review/y"}}}
        assert list(ended["node_results"]) == ["a", "review", "review/x", "review/y"]

    async def test_its_failure_names_the_node_inside(self, desk):
        inner = await desk.flow(node("x"))
        desk.agent.behaviour = says({"status": "error", "error_message": "No."})

        ended = await desk.run(node("review", kind="flow", config={"flow_id": inner}))

        assert ended["error_message"] == "review/x: The agent 'worker' gave up: No."
        assert ended["node_results"]["review"]["status"] == "failed"

    async def test_has_the_time_that_its_node_says(self, desk):
        inner = await desk.flow(node("x"))
        desk.agent.gate.clear()
        config = {"flow_id": inner, "timeout": 0.1}

        ended = await desk.run(node("review", kind="flow", config=config))

        assert "review took longer than 0.1 s" in ended["error_message"]


class TestLlm:
    async def test_asks_a_model(self, desk):
        config = {"prompt": "Say {word}.", "model": "dev/echo"}

        ended = await desk.run(node("ask", kind="llm", config=config), given={"word": "hello"})

        assert "Say hello." in ended["output_data"]["ask"]["text"]

    async def test_is_on_the_callers_bill(self, desk):
        config = {"prompt": "Say it.", "model": "dev/echo"}
        ended = await desk.run(node("ask", kind="llm", config=config))

        answer = await desk.client.get("/api/v1/usage", headers=AUTHORIZED)

        assert answer.json()["items"][0]["request_id"] == ended["execution_id"]

    async def test_an_unknown_model_fails_the_node(self, desk):
        config = {"prompt": "Say it.", "model": "none/such"}

        ended = await desk.run(node("ask", kind="llm", config=config))

        assert ended["status"] == "failed"
        assert "none/such" in ended["error_message"]


class TestCancel:
    async def test_stops_the_call_and_is_final(self, desk):
        desk.agent.gate.clear()
        execution_id = await desk.start(await desk.flow(node("a"), node("b", "a")))
        await until(lambda: desk.agent.calls)

        told = await desk.done("POST", f"/executions/{execution_id}/cancel")
        await until(lambda: desk.agent.cut == 1, within_s=2.0)
        desk.agent.gate.set()

        assert told["status"] == "cancelled"
        assert told["message"]
        assert (await desk.read(execution_id))["status"] == "cancelled"
        assert (await desk.read(execution_id))["node_results"]["a"]["status"] == "cancelled"

    async def test_again_changes_nothing(self, desk):
        desk.agent.gate.clear()
        execution_id = await desk.start(await desk.flow(node("a")))

        first = await desk.done("POST", f"/executions/{execution_id}/cancel")
        second = await desk.done("POST", f"/executions/{execution_id}/cancel")

        assert first["completed_at"] == second["completed_at"]

    async def test_what_has_completed_is_409(self, desk):
        ended = await desk.run(node("a"))

        answer = await desk.ask("POST", f"/executions/{ended['execution_id']}/cancel")

        assert answer.status_code == 409
        assert answer.json()["error_code"] == "EXECUTION_NOT_RUNNING"

    @pytest.mark.parametrize("execution_id", ["00000000-0000-7000-8000-000000000000", "x"])
    async def test_an_unknown_one_is_404(self, desk, execution_id):
        answer = await desk.ask("POST", f"/executions/{execution_id}/cancel")

        assert answer.status_code == 404


class TestList:
    async def test_newest_first_by_flow_and_by_status(self, desk):
        good, bad = await desk.flow(node("a")), await desk.flow(node("b"))
        first = await desk.end(await desk.start(good))
        second = await desk.end(await desk.start(good))
        desk.agent.behaviour = says({"status": "error"})
        third = await desk.end(await desk.start(bad))

        every = await desk.done("GET", "/executions?limit=3")
        of_good = await desk.done("GET", f"/executions?flow_id={good}&limit=1")
        failed = await desk.done("GET", "/executions?status=failed&limit=1")

        ids = [one["execution_id"] for one in (third, second, first)]
        assert [one["execution_id"] for one in every["executions"]] == ids
        assert [one["execution_id"] for one in of_good["executions"]] == [ids[1]]
        assert [one["execution_id"] for one in failed["executions"]] == [ids[0]]
        assert (of_good["count"], of_good["limit"], of_good["flow_id"]) == (1, 1, good)

    async def test_offset_goes_on(self, desk):
        flow_id = await desk.flow(node("a"))
        ids = [await desk.start(flow_id) for _ in range(3)]

        page = await desk.done("GET", f"/executions?limit=1&offset=2&flow_id={flow_id}")

        assert [one["execution_id"] for one in page["executions"]] == [ids[0]]

    @pytest.mark.parametrize("query", ["limit=0", "limit=501", "offset=-1", "status=nonsense"])
    async def test_a_bad_query_is_400(self, desk, query):
        answer = await desk.ask("GET", f"/executions?{query}")

        assert answer.status_code == 400


class TestResults:
    async def test_every_node_with_what_it_was_given_and_gave(self, desk):
        ended = await desk.run(node("a"), node("b", "a"), given={"x": 1})

        told = await desk.done("GET", f"/executions/{ended['execution_id']}/results")

        assert told["count"] == 2
        assert told["execution"]["status"] == "completed"
        [first, second] = told["node_results"]
        assert (first["node_id"], first["input_data"]) == ("a", {"x": 1})
        assert second["input_data"] == {"x": 1, "done": "a"}
        assert second["agent_id"] == "worker"
        assert second["completed_at"] is not None

    async def test_messages_are_questions_and_answers(self, desk):
        ended = await desk.run(node("a"), node("b", "a"))
        execution_id = ended["execution_id"]

        told = await desk.done("GET", f"/messages/{execution_id}")
        twin = await desk.done(
            "GET", f"/api/v1/executions/{execution_id}/messages?limit=1&offset=1"
        )

        shown = [(one["node_id"], one["direction"]) for one in told["messages"]]
        assert shown == [("a", "request"), ("a", "response"), ("b", "request"), ("b", "response")]
        assert [one["direction"] for one in twin["messages"]] == ["response"]


class TestEvents:
    async def frames(self, desk, execution_id, **headers):
        path = f"/executions/{execution_id}/events"
        answer = await desk.ask("GET", path, headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [
            dict(line.split(": ", 1) for line in one.splitlines())
            for one in answer.text.strip().split("\n\n")
        ]

    async def test_say_what_happened_and_end_with_the_result(self, desk):
        execution_id = (await desk.run(node("a")))["execution_id"]

        frames = await self.frames(desk, execution_id)

        told = [(one["event"], json.loads(one["data"])) for one in frames]
        assert [data["status"] for name, data in told if name == "status"] == [
            "pending",
            "running",
            "completed",
        ]
        assert [data["status"] for name, data in told if name == "node"] == ["running", "completed"]
        assert told[-1][0] == "result"
        assert told[-1][1]["output_data"] == {"a": {"done": "a"}}

    async def test_go_on_behind_the_last_one_seen(self, desk):
        execution_id = (await desk.run(node("a")))["execution_id"]
        every = await self.frames(desk, execution_id)

        rest = await self.frames(desk, execution_id, **{"last-event-id": every[2]["id"]})

        assert rest == every[3:]

    async def test_come_while_it_runs(self, desk):
        desk.agent.gate.clear()
        execution_id = await desk.start(await desk.flow(node("a")))
        following = asyncio.create_task(self.frames(desk, execution_id))
        await until(lambda: desk.agent.calls)

        desk.agent.gate.set()
        frames = await following

        assert frames[-1]["event"] == "result"

    async def test_a_cursor_of_nonsense_is_400(self, desk):
        execution_id = (await desk.run(node("a")))["execution_id"]

        path = f"/executions/{execution_id}/events"
        answer = await desk.ask("GET", path, headers={"last-event-id": "x"})

        assert answer.status_code == 400


class TestOwnership:
    async def test_somebody_elses_is_as_unknown_as_none(self, desk):
        execution_id = (await desk.run(node("a")))["execution_id"]
        wanted = {"email": "other@example.com", "password": "a long enough password"}
        other = (await desk.client.post("/api/v1/auth/register", json=wanted)).json()
        headers = {"authorization": f"Bearer {other['access_token']}"}

        for path in ("", "/results", "/messages", "/events"):
            answers = [
                await desk.client.get(f"/spine/executions/{one}{path}", headers=headers)
                for one in (execution_id, uuid4())
            ]
            texts = {_without_ids(answer.json()) for answer in answers}
            assert {answer.status_code for answer in answers} == {404}
            assert len(texts) == 1
        listed = await desk.client.get("/spine/executions", headers=headers)
        assert listed.json()["executions"] == []


class TestSystem:
    async def test_health_is_public_and_healthy(self, desk):
        answer = await desk.client.get("/spine/health")

        assert (answer.status_code, answer.json()["status"]) == (200, "healthy")

    async def test_detailed_health_says_what_it_rests_on(self, desk):
        told = await desk.done("GET", "/health/detailed")

        assert (told["status"], told["database"], told["mode"]) == (
            "healthy",
            "connected",
            "embedded",
        )

    async def test_metrics_count_under_both_clients_names(self, desk):
        before = await desk.done("GET", "/metrics")
        await desk.run(node("a"))
        desk.agent.behaviour = says({"status": "error"})
        await desk.run(node("a"))

        told = await desk.done("GET", "/metrics")

        names = ("successful_executions", "failed_executions", "total_executions")
        assert [told[name] - before[name] for name in names] == [1, 1, 2]
        assert told["total_executions"] == told["executions_total"]
        assert told["running_executions"] == told["executions_active"] == 0
        assert told["agents_total"] == 1
        assert told["last_execution"] is not None
        assert told["average_execution_time"] > 0

    async def test_status_counts_agents_and_flows(self, desk):
        await desk.register("second", is_active=False)
        before = (await desk.done("GET", "/status"))["flows"]["total"]
        await desk.flow(node("a"))

        told = await desk.done("GET", "/status")

        assert told["status"] == "operational"
        assert told["agents"] == {"total": 2, "active": 1}
        assert told["flows"] == {"total": before + 1}

    async def test_me_says_who_asks_and_what_is_left(self, desk):
        told = await desk.done("GET", "/api/v1/users/me")

        assert "@" in told["email"]
        assert told["plan"] == "enterprise"
        assert told["credits"] == 2**53 - 1

    async def test_without_a_key_it_is_401_in_the_words_of_this_contract(self, desk):
        answer = await desk.client.get("/spine/executions")

        told = answer.json()
        assert answer.status_code == 401
        assert told["error_code"] == "INVALID_CREDENTIALS"
        assert told["message"] == told["detail"]


class TestCredits:
    async def test_a_spent_budget_is_403(self, desk):
        wanted = {"email": "poor@example.com", "password": "a long enough password"}
        poor = (await desk.client.post("/api/v1/auth/register", json=wanted)).json()
        headers = {"authorization": f"Bearer {poor['access_token']}"}
        user_id = (await desk.client.get("/api/v1/auth/me", headers=headers)).json()["id"]
        limited = await desk.client.put(
            f"/api/v1/billing/limits/user/{user_id}",
            json={"budget_nanos": 0},
            headers=AUTHORIZED,
        )

        assert limited.is_success, limited.text
        me = (await desk.client.get("/spine/users/me", headers=headers)).json()
        answer = await desk.client.post(
            "/spine/flows/execute", json={"flow_id": "any"}, headers=headers
        )

        assert me["credits"] == 0
        assert (answer.status_code, answer.json()["error_code"]) == (403, "INSUFFICIENT_CREDITS")

    async def test_a_spent_minute_is_429_with_whole_seconds(self, desk):
        wanted = {"email": "busy@example.com", "password": "a long enough password"}
        busy = (await desk.client.post("/api/v1/auth/register", json=wanted)).json()
        headers = {"authorization": f"Bearer {busy['access_token']}"}
        user_id = (await desk.client.get("/api/v1/auth/me", headers=headers)).json()["id"]
        path = f"/api/v1/billing/limits/user/{user_id}"
        await desk.client.put(path, json={"rpm": 1}, headers=AUTHORIZED)
        call = {"model": "dev/echo", "messages": [{"role": "user", "content": "hello"}]}
        await desk.client.post("/v1/chat/completions", json=call, headers=headers)

        answer = await desk.client.post(
            "/spine/flows/execute", json={"flow_id": "any"}, headers=headers
        )

        assert (answer.status_code, answer.json()["error_code"]) == (429, "LIMIT_REACHED")
        assert int(answer.headers["retry-after"]) >= 1


class TestPriority:
    async def test_the_more_urgent_execution_gets_the_next_place(self, tmp_path):
        async with open_desk(tmp_path / "data", FLOWS_PARALLEL_NODES="1") as desk:
            desk.agent.gate.clear()
            flow_id = await desk.flow(node("a"))
            first = await desk.start(flow_id)
            await until(lambda: desk.agent.calls)
            low = await desk.start(flow_id, priority=1)
            high = await desk.start(flow_id, priority=9)
            for one in (low, high):
                await desk.has_begun(one)

            desk.agent.gate.set()
            for one in (first, low, high):
                await desk.end(one)

            order = [call.body["execution_id"] for call in desk.agent.calls]
        assert order == [first, high, low]


def _without_ids(problem):
    return json.dumps({**problem, "request_id": "", "detail": "", "message": ""})
