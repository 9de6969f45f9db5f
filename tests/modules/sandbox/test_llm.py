"""Scripts that ask a language model: their caller answers, or the gateway does."""

import asyncio

import pytest
import pytest_asyncio

from app.modules.routing.service.pricelist import PriceEntry, PriceFile
from tests.house import AUTHORIZED
from tests.modules.sandbox.desks import ASKS, Desk, open_desk
from tests.scripted_upstream import scripted_upstream
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 1024 * 1024
CATCHES = """
try:
    set_result(llm.complete('hi', MODEL))
except LLMError as error:
    set_result({'refused': str(error)})
"""
TWICE = "set_result([llm.complete('one'), llm.complete('two')])"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    async with scripted_upstream() as played:
        yield played


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(tmp_path_factory, upstream):
    variables = {
        "EXTERNAL_ONE_KEY": "sk-one",
        "ONE_BASE_URL": upstream.base_url,
        "ROUTING_RETRIES": "0",
        "ROUTING_DEFAULT_MODEL": "good",
    }
    async with open_desk(tmp_path_factory.mktemp("house") / "data", **variables) as opened:
        await opened.client.get("/v1/models", headers=AUTHORIZED)
        yield opened


async def answered(desk: Desk, execution_id: str, response: str, **more) -> dict:
    """The script's answer after ours, when it has ended or asks again."""
    answer = await desk.respond(execution_id, response, **more)
    assert answer.status_code == 200, answer.text
    return await desk.waited(execution_id)


async def paused_for(seconds: float) -> None:
    """Let time go by that the script does not have."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    await until(lambda: loop.time() - since > seconds)


class TestQuestion:
    async def test_is_shown_with_what_was_printed_before(self, desk):
        read = await desk.run("print('before', flush=True)\nllm.complete('why?', 'small')")

        assert (read["status"], read["stdout"]) == ("awaiting_llm", "before\n")
        assert read["llm_request"] == {
            "prompt": "why?",
            "model": "small",
            "request_id": read["llm_request"]["request_id"],
        }
        await desk.cancel(read["execution_id"])

    async def test_is_for_the_default_model_where_none_is_named(self, desk):
        read = await desk.run("llm.complete('why?')")

        assert read["llm_request"]["model"] == "default"
        await desk.cancel(read["execution_id"])

    async def test_is_gone_when_the_script_has_ended(self, desk):
        execution_id, _ = await desk.asking()

        read = await answered(desk, execution_id, "because")

        assert (read["status"], read["llm_request"]) == ("completed", None)

    async def test_may_be_any_text(self, desk):
        read = await desk.run(r"llm.complete('\u00e4 \U0001f600 \n\0 \ud800')")

        assert read["llm_request"]["prompt"].startswith("ä 😀 \n")
        await desk.cancel(read["execution_id"])

    async def test_that_is_too_large_is_an_error_that_a_script_can_catch(self, desk):
        code = "try: llm.complete('x' * 65537)\nexcept LLMError as error: set_result(str(error))"

        read = await desk.run(code)

        assert (read["status"], read["result"]) == (
            "completed",
            "The prompt is larger than 64 KiB.",
        )

    @pytest.mark.parametrize("prompt", ["7", "None", "b'bytes'", "['list']"])
    async def test_that_is_no_text_is_an_error(self, desk, prompt):
        read = await desk.run(f"llm.complete({prompt})")

        assert read["status"] == "error"
        assert "TypeError" in read["error"]


class TestRespond:
    async def test_lets_the_script_go_on(self, desk):
        execution_id, _ = await desk.asking()

        answer = await desk.respond(execution_id, "because")

        assert (answer.status_code, answer.json()["llm_request"]) == (200, None)
        assert answer.json()["status"] in {"running", "completed"}
        assert (await desk.waited(execution_id))["result"] == "because"

    async def test_several_times_in_one_script(self, desk):
        execution_id, first = await desk.asking(TWICE)

        second = await answered(desk, execution_id, "1", request_id=first)
        last = await answered(
            desk, execution_id, "2", request_id=second["llm_request"]["request_id"]
        )

        assert second["llm_request"]["prompt"] == "two"
        assert (last["status"], last["result"]) == ("completed", ["1", "2"])

    @pytest.mark.parametrize("response", ["", "ä\n😀", "x" * MB], ids=["empty", "text", "large"])
    async def test_takes_any_text(self, desk, response):
        execution_id, _ = await desk.asking("set_result(len(llm.complete('?')))")

        read = await answered(desk, execution_id, response)

        assert read["result"] == len(response)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"response": None},
            {"response": 7},
            {"response": ["a"]},
            {"response": "x" * (MB + 1)},
            {"response": "a", "request_id": 7},
            {"response": "a", "answer": "b"},
        ],
        ids=["none", "null", "number", "list", "large", "id", "field"],
    )
    async def test_refuses_what_is_no_text_and_still_waits(self, desk, body):
        execution_id, _ = await desk.asking()

        answer = await desk.post(f"/executions/{execution_id}/respond", body)

        assert answer.status_code == 400
        assert (await desk.read(execution_id))["status"] == "awaiting_llm"
        await desk.cancel(execution_id)

    async def test_of_one_that_runs_is_a_conflict(self, desk):
        execution_id = await desk.begun()

        answer = await desk.respond(execution_id, "early")

        assert answer.status_code == 409
        assert (await desk.read(execution_id))["status"] == "running"
        await desk.cancel(execution_id)

    @pytest.mark.parametrize("code", ["1", "1 / 0"])
    async def test_of_one_that_has_ended_is_a_conflict(self, desk, code):
        read = await desk.run(code)

        assert (await desk.respond(read["execution_id"], "late")).status_code == 409
        assert await desk.read(read["execution_id"]) == read

    async def test_twice_takes_the_first(self, desk):
        execution_id, _ = await desk.asking()

        first = await desk.respond(execution_id, "first")
        second = await desk.respond(execution_id, "second")

        assert (first.status_code, second.status_code) == (200, 409)
        assert (await desk.waited(execution_id))["result"] == "first"

    async def test_by_many_at_once_takes_one(self, desk):
        execution_id, request_id = await desk.asking()

        answers = await asyncio.gather(
            *(desk.respond(execution_id, str(n), request_id=request_id) for n in range(8))
        )

        statuses = [answer.status_code for answer in answers]
        assert sorted(statuses) == [200] + [409] * 7
        assert (await desk.waited(execution_id))["result"] == str(statuses.index(200))

    async def test_with_the_id_of_an_earlier_question_does_not_answer_the_next(self, desk):
        execution_id, first = await desk.asking(TWICE)
        second = await answered(desk, execution_id, "1", request_id=first)

        late = await desk.respond(execution_id, "late", request_id=first)

        assert late.status_code == 409
        assert (await desk.read(execution_id))["llm_request"] == second["llm_request"]
        assert (await answered(desk, execution_id, "2"))["result"] == ["1", "2"]

    async def test_with_an_id_that_is_none_is_a_conflict(self, desk):
        execution_id, _ = await desk.asking()

        assert (await desk.respond(execution_id, "a", request_id="x")).status_code == 409
        await desk.cancel(execution_id)

    async def test_after_a_cancel_is_a_conflict(self, desk):
        execution_id, _ = await desk.asking()
        await desk.cancel(execution_id)

        assert (await desk.respond(execution_id, "late")).status_code == 409


class TestPause:
    async def test_is_not_time_of_the_script(self, desk):
        execution_id, _ = await desk.asking(timeout=1)
        await paused_for(1.2)

        read = await answered(desk, execution_id, "late and in time")

        assert (read["status"], read["result"]) == ("completed", "late and in time")
        assert read["execution_time_ms"] < 1000

    async def test_leaves_the_script_the_time_that_it_had(self, desk):
        execution_id, _ = await desk.asking(f"{ASKS}\nwhile True: pass", timeout=1)
        await paused_for(0.5)

        read = await answered(desk, execution_id, "go on")

        assert read["status"] == "timeout"
        assert 1000 <= read["execution_time_ms"] < 1900

    async def test_lets_nothing_of_the_script_run(self, desk):
        code = """
import threading, time
def burn():
    while True: pass
threading.Thread(target=burn, daemon=True).start()
time.sleep(0.05)
before = time.process_time()
llm.complete('?')
set_result(time.process_time() - before)
"""
        execution_id, _ = await desk.asking(code)
        await paused_for(0.5)

        read = await answered(desk, execution_id, "go on")

        assert read["result"] < 0.25

    async def test_gives_its_place_to_another(self, desk):
        await desk.project("alone", replicas=1)
        execution_id, _ = await desk.asking(project="alone")

        other = await desk.run("set_result('done')", project="alone")

        assert other["result"] == "done"
        assert (await answered(desk, execution_id, "x"))["status"] == "completed"

    async def test_that_nobody_ends_is_a_timeout(self, desk):
        await desk.project("impatient", limits={"llm_wait_s": 1})
        execution_id, _ = await desk.asking(project="impatient")

        read = await desk.is_in(execution_id, "timeout")

        assert "Nobody answered" in read["error"]
        assert (read["llm_request"], read["stdout"]) == (None, "before\n")
        assert (await desk.respond(execution_id, "late")).status_code == 409
        assert (await desk.run("set_result(1)", project="impatient"))["result"] == 1

    async def test_of_more_than_may_pause_is_an_error_that_a_script_can_catch(self, desk):
        await desk.project("few", limits={"paused": 1})
        first, _ = await desk.asking(project="few")

        second = await desk.run(CATCHES.replace("MODEL", "'x'"), project="few")

        assert "wait for a model already" in second["result"]["refused"]
        assert (await answered(desk, first, "x"))["status"] == "completed"
        third, _ = await desk.asking(project="few")
        await desk.cancel(third)


class TestCalls:
    async def test_have_a_number_beyond_which_there_is_an_error(self, desk):
        await desk.project("curious", limits={"llm_calls": 2})
        code = "for n in range(1000): print(llm.complete(str(n)), flush=True)"
        execution_id, _ = await desk.asking(code, project="curious")

        await answered(desk, execution_id, "a")
        read = await answered(desk, execution_id, "b")

        assert (read["status"], read["stdout"]) == ("error", "a\nb\n")
        assert "LLMError: A script may ask a model 2 times." in read["error"]

    async def test_of_two_threads_are_answered_one_by_one(self, desk):
        code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    set_result(list(pool.map(llm.complete, ['a', 'b'])))
"""
        execution_id, _ = await desk.asking(code)
        first = (await desk.read(execution_id))["llm_request"]["prompt"]

        second = (await answered(desk, execution_id, f"to {first}"))["llm_request"]["prompt"]
        read = await answered(desk, execution_id, f"to {second}")

        assert {first, second} == {"a", "b"}
        assert read["result"] == ["to a", "to b"]

    async def test_are_not_ended_by_a_script_that_catches_everything(self, desk):
        code = "try: set_result(llm.complete('?'))\nexcept BaseException: set_result('caught')"
        execution_id, _ = await desk.asking(code)

        assert (await answered(desk, execution_id, "a"))["result"] == "a"


class TestGateway:
    async def test_answers_without_a_pause(self, desk, upstream):
        read = await desk.run("set_result(llm.complete('hi', 'good'))", llm="gateway")

        assert (read["status"], read["result"]) == ("completed", "hello")
        assert "awaiting_llm" not in await desk.story(read["execution_id"])

    async def test_puts_it_on_the_bill_of_the_caller(self, desk, upstream):
        guest = await desk.guest("metered@example.org")

        read = await guest.run("llm.complete('hi', 'good')", llm="gateway")

        (row,) = await usages(guest)
        assert (row["model"], row["outcome"], row["status"]) == ("good", "completed", 200)
        assert (row["input_tokens"], row["output_tokens"]) == (7, 5)
        assert row["request_id"] == read["execution_id"]

    async def test_asks_the_model_of_the_house_where_none_is_named(self, desk, upstream):
        before = len(upstream.bodies)

        read = await desk.run("set_result(llm.complete('hi'))", llm="gateway")

        assert read["result"] == "hello"
        assert b'"model":"good"' in upstream.bodies[before]

    async def test_asks_the_model_of_the_project_before_that(self, desk, upstream):
        await desk.project("models", llm="gateway", model="no-usage")
        before = len(upstream.bodies)

        await desk.run("llm.complete('hi')", project="models")

        assert b'"model":"no-usage"' in upstream.bodies[before]

    async def test_is_left_out_where_the_caller_wants_to_answer(self, desk):
        await desk.project("both", llm="gateway")

        execution_id, _ = await desk.asking(project="both", llm="caller")

        await desk.cancel(execution_id)

    async def test_says_why_a_model_is_not_open_to_this_key(self, desk):
        keyed = await with_key(desk, models=["late"])

        read = await keyed.run(CATCHES.replace("MODEL", "'good'"), llm="gateway")

        assert "good" in read["result"]["refused"]

    @pytest.mark.parametrize("model", ["error-500", "garbage", "dies-plain", "no-such-model"])
    async def test_says_what_went_wrong_and_lets_the_script_go_on(self, desk, model):
        read = await desk.run(CATCHES.replace("MODEL", repr(model)), llm="gateway")

        assert read["status"] == "completed"
        assert read["result"]["refused"]
        assert "sk-one" not in read["result"]["refused"]

    async def test_says_that_the_budget_is_spent(self, desk, upstream):
        registry = next(m for m in desk.house.block.modules if m.name == "routing").registry
        prices = PriceFile("test", "USD", [PriceEntry("one", "good", "1", "2")])
        await registry.import_prices(prices)
        await registry.reload()
        keyed = await with_key(desk)
        limits = f"/api/v1/billing/limits/key/{await key_id(keyed)}"
        await desk.client.put(limits, json={"budget_nanos": 1}, headers=AUTHORIZED)
        before = len(upstream.bodies)

        read = await keyed.run(CATCHES.replace("MODEL", "'good'"), llm="gateway")

        assert "budget" in read["result"]["refused"]
        assert len(upstream.bodies) == before

    async def test_is_not_time_of_the_script(self, desk, upstream):
        upstream.release.clear()
        execution_id = await desk.submit(
            "set_result(llm.complete('hi', 'slow'))", llm="gateway", timeout=1
        )
        await until(lambda: upstream.open)
        await paused_for(1.2)

        upstream.release.set()

        assert (await desk.waited(execution_id))["result"] == "hello"

    async def test_is_cut_when_the_script_is_cancelled(self, desk, upstream):
        upstream.release.clear()
        cut = upstream.cut
        execution_id = await desk.submit("llm.complete('hi', 'slow')", llm="gateway")
        await until(lambda: upstream.open)

        read = (await desk.cancel(execution_id)).json()

        await until(lambda: upstream.cut > cut)
        assert read["error"] == "The execution was cancelled."
        assert await desk.works()


async def usages(desk: Desk) -> list[dict]:
    billing = next(m for m in desk.house.block.modules if m.name == "billing")
    await billing.meter.flush()
    answer = await desk.client.get("/api/v1/usage", headers=desk.headers)
    return answer.json()["items"]


async def with_key(desk: Desk, **terms) -> Desk:
    """The same caller by a key of its own."""
    body = {"name": "k", "scopes": ["full"], **terms}
    made = await desk.client.post("/api/v1/auth/api-keys", json=body, headers=desk.headers)
    keyed = Desk(desk.house, desk.door, desk.client, desk.prefix)
    keyed.headers = {"authorization": f"Bearer {made.json()['key']}"}
    return keyed


async def key_id(desk: Desk) -> str:
    token = desk.headers["authorization"].removeprefix("Bearer ")
    auth = next(m for m in desk.house.block.modules if m.name == "auth")
    return str((await auth.authenticator.authenticate(token.encode())).credential_id)
