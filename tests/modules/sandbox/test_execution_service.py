"""Executions with workers that do what a test says: what races, what crashes, what lies."""

import asyncio
from base64 import b64decode
from contextlib import AsyncExitStack

import msgspec
import pytest

from app.kernel.db import Database
from app.kernel.errors import NotFound
from app.kernel.jobs import JobBook
from app.modules.sandbox.domain.executions import InputFile, Order
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import Gone, Printed, Said
from app.modules.sandbox.repository.executions import ExecutionRepository
from app.modules.sandbox.service.executions import NotPaused
from app.modules.sandbox.service.pool import QueueFull
from tests.house import prepare
from tests.modules.runs import works
from tests.modules.sandbox.processes import CALLER, NOT_AGAIN, Site, done, frame
from tests.waiting import until


@pytest.fixture
async def site(tmp_path):
    db = Database(f"sqlite+insula:///{prepare(tmp_path) / 'insula.db'}", JobBook())
    await works.people(db)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(db.close)
        yield Site(db, tmp_path, stack)


@pytest.fixture
async def process(site):
    return await site.open()


class TestWork:
    async def test_hands_over_the_files_then_the_job(self, process):
        large = bytes(range(256)) * 4096

        _, worker = await process.begun(
            code="the code",
            files=(InputFile("a", b"hi"), InputFile("empty", b""), InputFile("large", large)),
            settings={"A": "1"},
            memory={"a.b": [1]},
        )

        *files, job = worker.sent
        got: dict[str, bytes] = {}
        for one in files:
            got[one["name"]] = got.get(one["name"], b"") + b64decode(one["data"])
        assert got == {"a": b"hi", "empty": b"", "large": large}
        assert [one["more"] for one in files] == [False, False, True, False]
        assert (job["code"], job["settings"], job["memory"]) == (
            "the code",
            {"A": "1"},
            {"a.b": [1]},
        )
        assert job["limits"]["llm_calls"] == Limits().llm_calls

    async def test_ends_with_done_and_with_its_worker(self, process):
        run_id, worker = await process.begun()
        worker.says.put_nowait(Printed("stdout", b"hi\n"))

        worker.says.put_nowait(done([1], memory={"a.b": 2}))

        execution = await process.wait(run_id)
        assert (execution.status, execution.error) == ("completed", None)
        assert (execution.outcome.result, execution.outcome.stdout) == ([1], "hi\n")
        assert execution.outcome.memory_updates == {"a.b": 2}
        assert worker.is_gone

    @pytest.mark.parametrize(
        ("gone", "status", "text"),
        [
            (Gone(exit_code=7), "error", "exit code 7"),
            (Gone(signal=11), "error", "SIGSEGV"),
            (Gone(signal=9, reason="memory"), "error", "512 MiB of memory"),
            (Gone(signal=9, reason="cpu"), "timeout", "60 s of processor time"),
            (Gone(signal=24), "timeout", "60 s of processor time"),
            (Gone(signal=9, reason="disk"), "error", "64 MiB or 4096 files"),
            (Gone(signal=9, reason="protocol"), "error", "channel of its worker"),
        ],
        ids=["exit", "signal", "memory", "cpu", "sigxcpu", "disk", "protocol"],
    )
    async def test_of_a_worker_that_is_gone_says_why(self, process, gone, status, text):
        run_id, worker = await process.begun()
        worker.says.put_nowait(Printed("stdout", b"before"))

        worker.says.put_nowait(gone)

        execution = await process.wait(run_id)
        assert (execution.status, execution.outcome.stdout) == (status, "before")
        assert text in execution.error

    @pytest.mark.parametrize(
        "said",
        [
            Said(b"no json"),
            Said(b"\x00\xff"),
            Said(b"[]"),
            Said(b'{"t":"done"}'),
            Said(b'{"t":"llm","seq":2,"prompt":"","model":""}'),
            Said(b'{"t":"llm","seq":"1","prompt":"","model":""}'),
            Said(b'{"t":"artifact","name":"../a","data":"","more":false}'),
            Said(
                b'{"t":"done","ok":true,"has_result":true,"result":'
                + b"[" * 5000
                + b"]" * 5000
                + b"}"
            ),
            Said(b'{"t":"done","ok":true,"has_result":true,"result":NaN}'),
        ],
        ids=lambda said: said.frame[:24].decode("latin-1"),
    )
    async def test_of_a_worker_that_breaks_its_protocol_is_an_error(self, process, said):
        run_id, worker = await process.begun()

        worker.says.put_nowait(said)

        execution = await process.wait(run_id)
        assert (execution.status, execution.outcome.result) == ("error", None)
        assert execution.error
        assert worker.is_gone

    async def test_hears_nothing_after_done(self, process):
        run_id, worker = await process.begun()

        worker.says.put_nowait(done("first"))
        worker.says.put_nowait(done("second"))
        worker.says.put_nowait(Printed("stdout", b"after"))

        execution = await process.wait(run_id)
        assert (execution.outcome.result, execution.outcome.stdout) == ("first", "")

    async def test_frees_its_place_however_it_ends(self, process):
        for said in (done(1), Said(b"no json"), Gone(exit_code=1), done(1), done(1)):
            run_id, worker = await process.begun()
            worker.says.put_nowait(said)
            await process.ended(run_id)

        pool = await process.pools.of("default")
        await until(lambda: pool.state.idle_workers == 2)
        assert not pool.is_busy

    async def test_puts_an_artifact_together_from_its_parts(self, process):
        run_id, worker = await process.begun()
        part = "QUJD" * 8192
        worker.says.put_nowait(frame("artifact", name="a", data=part, more=True))
        worker.says.put_nowait(frame("artifact", name="a", data="RA==", more=False))
        worker.says.put_nowait(done())

        execution = await process.wait(run_id)

        pieces = await process.views.artifact(works.ANNA, run_id, "a")
        assert b"".join([piece async for piece in pieces]) == b"ABC" * 8192 + b"D"
        assert [one.name for one in execution.outcome.artifacts] == ["a"]

    async def test_leaves_out_an_artifact_that_is_not_whole(self, process):
        run_id, worker = await process.begun()
        worker.says.put_nowait(frame("artifact", name="a", data="QUJD" * 8192, more=True))
        worker.says.put_nowait(Gone(exit_code=1))

        execution = await process.wait(run_id)

        assert execution.outcome.artifacts == ()


class TestPause:
    async def test_freezes_the_worker_until_the_answer_is_there(self, process):
        run_id, worker, request_id = await process.asking()
        while_paused = [one["t"] for one in worker.sent]

        await process.respond(run_id, "because", request_id)

        await until(lambda: worker.sent[-1]["t"] == "llm_reply")
        assert while_paused == ["job", "-freeze"]
        assert [one["t"] for one in worker.sent[2:]] == ["-thaw", "llm_reply"]
        assert worker.sent[-1] == {"t": "llm_reply", "seq": 1, "text": "because"}

    async def test_of_two_answers_at_once_takes_one(self, process):
        run_id, worker, request_id = await process.asking()

        answers = await asyncio.gather(
            *(process.respond(run_id, str(n), request_id) for n in range(5)),
            return_exceptions=True,
        )

        taken = [n for n, answer in enumerate(answers) if answer is None]
        assert len(taken) == 1
        assert sum(isinstance(answer, NotPaused) for answer in answers) == 4
        await until(lambda: worker.sent[-1]["t"] == "llm_reply")
        assert worker.sent[-1]["text"] == str(taken[0])

    async def test_a_late_answer_does_not_answer_the_next_question(self, process):
        run_id, worker, first = await process.asking()
        await process.respond(run_id, "1", first)
        worker.says.put_nowait(frame("llm", seq=2, prompt="and?", model="default"))
        second = await process.wait(run_id)

        with pytest.raises(NotPaused) as caught:
            await process.respond(run_id, "late", first)

        assert second.question.prompt == "and?"
        assert caught.value.extra["request_id"] == second.request_id
        assert (await process.find(run_id)).status == "awaiting_llm"

    async def test_a_cancel_ends_the_worker(self, process):
        run_id, worker, _ = await process.asking()

        await process.executions.cancel(works.ANNA, run_id)

        await until(lambda: worker.is_gone)
        assert (await process.ended(run_id)).error == "The execution was cancelled."
        assert worker.sent[-1]["t"] == "-freeze"

    async def test_a_worker_that_dies_meanwhile_is_noticed_with_the_answer(self, process):
        run_id, worker, request_id = await process.asking()
        worker.kill()

        await process.respond(run_id, "because", request_id)

        execution = await process.ended(run_id)
        assert (execution.status, execution.question) == ("error", None)


class TestQueue:
    async def test_works_off_in_the_order_of_asking(self, process):
        first = [await process.begun() for _ in range(2)]
        waiting = [await process.submit(code=str(n)) for n in range(3)]
        pool = await process.pools.of("default")
        await until(lambda: pool.queued == 3)
        codes = []
        for number in range(5):
            worker = await process.worker(number)
            codes.append(worker.sent[-1]["code"])
            worker.says.put_nowait(done())

        assert codes[2:] == ["0", "1", "2"]
        for run_id in [*(one for one, _ in first), *waiting]:
            assert (await process.ended(run_id)).status == "completed"

    async def test_one_that_waits_is_pending(self, process):
        for _ in range(2):
            await process.begun()

        run_id = await process.submit()

        pool = await process.pools.of("default")
        await until(lambda: pool.queued == 1)
        assert (await process.find(run_id)).status == "pending"

    async def test_one_that_is_cancelled_never_gets_a_worker(self, process):
        begun = [await process.begun() for _ in range(2)]
        run_id = await process.submit(code="never")
        pool = await process.pools.of("default")
        await until(lambda: pool.queued == 1)

        await process.executions.cancel(works.ANNA, run_id)

        await until(lambda: pool.queued == 0)
        for _, worker in begun:
            worker.says.put_nowait(done())
        _, worker = await process.begun(code="next")
        assert all(f.get("code") != "never" for w in process.runner.workers for f in w.sent)
        worker.says.put_nowait(done())

    async def test_that_is_full_takes_nobody_and_forgets_nobody(self, process):
        await process.projects.put(CALLER, "small", {"limits": {"queue": 1}})
        await process.pools.up(await process.projects.get("small"), 1)
        order = Order("small", "1", 60)
        first = (await process.executions.submit(CALLER, order, None)).id
        worker = await process.worker()
        second = (await process.executions.submit(CALLER, order, None)).id
        pool = await process.pools.of("small")
        await until(lambda: pool.queued == 1)

        with pytest.raises(QueueFull):
            await process.executions.submit(CALLER, order, None)

        worker.says.put_nowait(done(1))
        (await process.worker(1)).says.put_nowait(done(2))
        assert (await process.ended(first)).outcome.result == 1
        assert (await process.ended(second)).outcome.result == 2


class TestDown:
    async def test_lets_those_run_who_were_taken_on_before(self, process):
        taken = [await process.submit(code=str(number)) for number in range(3)]

        await process.pools.down("default")

        for number in range(3):
            (await process.worker(number)).says.put_nowait(done(number))
        reads = [await process.ended(one) for one in taken]
        assert [read.outcome.result for read in reads] == [0, 1, 2]

    async def test_lets_a_paused_one_go_on(self, process):
        run_id, worker, request_id = await process.asking()

        await process.pools.down("default")
        await process.respond(run_id, "because", request_id)

        await until(lambda: worker.sent[-1]["t"] == "llm_reply")
        worker.says.put_nowait(done("went on"))
        assert (await process.ended(run_id)).outcome.result == "went on"


class TestTwoProcesses:
    async def test_the_end_in_one_is_seen_in_the_other(self, site):
        one, other = await site.open(), await site.open()
        run_id, worker = await one.begun()
        waiting = asyncio.create_task(other.wait(run_id))

        worker.says.put_nowait(done("there"))

        execution = await waiting
        assert (execution.status, execution.outcome.result) == ("completed", "there")

    async def test_a_question_in_one_is_seen_and_answered_in_the_other(self, site):
        one, other = await site.open(), await site.open()
        run_id, worker, request_id = await one.asking()

        seen = await other.wait(run_id)
        await other.respond(run_id, "from afar", request_id)

        assert (seen.status, seen.question.prompt) == ("awaiting_llm", "why?")
        assert seen.request_id == request_id
        await until(lambda: worker.sent[-1].get("text") == "from afar")
        worker.says.put_nowait(done())
        assert (await one.ended(run_id)).status == "completed"

    async def test_a_cancel_in_one_stops_the_script_in_the_other(self, site):
        one, other = await site.open(), await site.open()
        run_id, worker = await one.begun()

        await other.executions.cancel(works.ANNA, run_id)

        await until(lambda: worker.is_gone)
        assert (await one.ended(run_id)).error == "The execution was cancelled."

    async def test_a_queued_one_is_pending_in_both(self, site):
        site.replicas = 1
        one, other = await site.open(), await site.open()
        await one.begun()

        run_id = await one.submit()

        async def is_queued():
            return (await site.story(run_id))[-1] == "queued"

        await until(is_queued)
        assert (await one.find(run_id)).status == "pending"
        assert (await other.find(run_id)).status == "pending"


class TestCrash:
    async def test_of_a_running_one_ends_it_and_says_so(self, site):
        dead = await site.open()
        run_id, _ = await dead.begun()
        dead.stall()

        heir = await site.heir()

        execution = await heir.ended(run_id)
        assert (execution.status, execution.error) == ("error", NOT_AGAIN)
        assert all(one["t"] != "job" for w in heir.runner.workers for one in w.sent)

    async def test_of_a_paused_one_ends_it_and_says_so(self, site):
        dead = await site.open()
        run_id, _, request_id = await dead.asking()
        dead.stall()

        heir = await site.heir()

        execution = await heir.ended(run_id)
        assert (execution.status, execution.error) == ("error", NOT_AGAIN)
        assert execution.question is None
        with pytest.raises(NotPaused):
            await heir.respond(run_id, "late", request_id)

    async def test_of_a_queued_one_leaves_it_to_another(self, site):
        site.replicas = 1
        dead = await site.open()
        await dead.begun()
        run_id = await dead.submit(code="later")

        async def is_queued():
            return (await site.story(run_id))[-1] == "queued"

        await until(is_queued)
        dead.stall()

        heir = await site.heir()

        worker = await heir.worker()
        assert worker.sent[-1]["code"] == "later"
        worker.says.put_nowait(done("done"))
        assert (await heir.ended(run_id)).outcome.result == "done"

    async def test_lets_the_stalled_process_see_what_the_other_does(self, site):
        site.replicas = 1
        dead = await site.open()
        await dead.begun()
        run_id = await dead.submit(code="later")

        async def is_queued():
            return (await site.story(run_id))[-1] == "queued"

        await until(is_queued)
        dead.stall()
        heir = await site.heir()
        worker = await heir.worker()

        worker.says.put_nowait(done("done"))

        assert (await dead.ended(run_id)).outcome.result == "done"

    async def test_while_the_gateway_is_asked_is_unknown(self, site):
        dead = await site.open()
        run_id, worker = await dead.begun(llm="gateway")
        worker.says.put_nowait(frame("llm", seq=1, prompt="why?", model="default"))
        await until(lambda: site.model.asked)
        dead.stall()

        heir = await site.heir()

        execution = await heir.ended(run_id)
        assert execution.status == "error"
        assert "it may have been done" in execution.error
        assert site.model.asked == ["why?"]

    async def test_lets_the_stalled_process_write_nothing_more(self, site):
        dead = await site.open()
        run_id, worker = await dead.begun()
        dead.stall()
        heir = await site.heir()
        await heir.ended(run_id)

        worker.says.put_nowait(done("too late"))

        await until(lambda: worker.is_gone)
        execution = await heir.find(run_id)
        assert (execution.status, execution.outcome.result) == ("error", None)


class TestGateway:
    async def test_asks_once_and_hands_the_answer_to_the_script(self, site, process):
        run_id, worker = await process.begun(llm="gateway")
        worker.says.put_nowait(frame("llm", seq=1, prompt="why?", model="default"))
        await until(lambda: site.model.asked)
        while_asked = (await process.find(run_id)).status

        site.model.may_answer.set()

        await until(lambda: worker.sent[-1].get("text") == "yes")
        assert while_asked == "running"
        worker.says.put_nowait(done())
        assert (await process.ended(run_id)).status == "completed"
        assert site.model.asked == ["why?"]


class TestForget:
    async def test_removes_what_a_run_has_left(self, process):
        run_id, worker = await process.begun()
        worker.says.put_nowait(frame("artifact", name="a", data="QUJD", more=False))
        worker.says.put_nowait(done())
        execution = await process.ended(run_id)

        await process.views.forget(str(run_id))

        pieces = process.shelf.read(run_id, execution.outcome.artifacts, "a")
        with pytest.raises(NotFound):
            await anext(pieces)

    async def test_twice_is_fine(self, process):
        run_id, worker = await process.begun()
        worker.says.put_nowait(done())
        await process.ended(run_id)

        await process.views.forget(str(run_id))
        await process.views.forget(str(run_id))

        assert (await process.find(run_id)).status == "completed"


class TestSize:
    async def test_a_large_outcome_is_read_from_the_database(self, process):
        run_id, worker = await process.begun()
        worker.says.put_nowait(Printed("stdout", b"x" * 100_000))
        worker.says.put_nowait(done("r" * 100_000))

        execution = await process.wait(run_id)

        assert process.executor.live.find(run_id) is None
        assert (len(execution.outcome.stdout), len(execution.outcome.result)) == (100_000,) * 2

    async def test_what_it_was_given_is_dropped_at_the_end(self, site, process):
        run_id, worker = await process.begun(settings={"a": "given"})
        worker.says.put_nowait(done())
        await process.ended(run_id)

        async with site.db.read() as session:
            row = await ExecutionRepository(session).find(run_id)

        assert row.request is None
        assert msgspec.json.decode(row.outcome)["result"] is None
