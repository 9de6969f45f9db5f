"""The life of a run in one process: started, done, asked, cancelled, followed, forgotten."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.kernel.errors import Invalid
from app.modules.runs.api import Ended, Kind, News, NoSuchRun, NotAwaiting, Wish
from app.modules.runs.domain import Search
from app.modules.runs.models import EventRow, RunRow
from app.modules.runs.service.runs import KeyReused
from tests.fakes.clock import FakeClock
from tests.modules.runs.works import (
    ANNA,
    BERT,
    Gate,
    at_once,
    ended,
    is_in,
    log,
    opened,
    started,
    story,
)
from tests.waiting import until


class TestWork:
    async def test_is_done_and_leaves_a_log_without_a_gap(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            run = await started(module, house, title="one")
            events = await log(module, run)
            run = await module.runs.get(ANNA, run.id)

        assert story(events) == ["pending", "running", "output", "result", "completed"]
        assert [event.seq for event in events] == [1, 2, 3, 4, 5]
        assert (run.status, run.last_seq, run.title) == ("completed", 5, "one")
        assert run.created_at <= run.started_at <= run.ended_at

    async def test_does_not_begin_when_its_transaction_is_rolled_back(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work), Kind("other", at_once)) as module:
            with suppress(ZeroDivisionError):
                async with house.begin() as session:
                    await module.runs.start(session, Wish(ANNA, "test"))
                    raise ZeroDivisionError
            await ended(module, await started(module, house, "other"))

            assert await module.runs.page(Search(ANNA, "test")) == []
        assert gate.begun == 0

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (Invalid("The code is too long."), "invalid_request", "The code is too long."),
            (ZeroDivisionError("secret"), "internal", "The work failed; the log says why."),
        ],
    )
    async def test_that_raises_fails_and_says_no_more_than_it_may(
        self, house, cache, error, code, text
    ):
        gate = Gate(error=error)
        gate.may_end.set()
        async with opened(house, cache, Kind("test", gate.work)) as module:
            run = await ended(module, await started(module, house))

        assert (run.status, run.error_code, run.error) == ("failed", code, text)

    async def test_writes_what_belongs_to_its_end_in_the_same_transaction(self, house, cache):
        async def work(turn):
            return Ended("timed_out", "timeout", "60 s are over.", write=rename)

        async def rename(session):
            await session.execute(update(RunRow).values(title="renamed"))

        async with opened(house, cache, Kind("test", work)) as module:
            run = await ended(module, await started(module, house))

        assert (run.status, run.title, run.error_code) == ("timed_out", "renamed", "timeout")

    async def test_whose_end_cannot_be_written_fails(self, house, cache):
        async def broken(session):
            session.add(RunRow())
            await session.flush()

        async def work(turn):
            return Ended(news=(News("result"),), write=broken)

        async with opened(house, cache, Kind("test", work)) as module:
            events = await log(module, await started(module, house))

        assert story(events) == ["pending", "running", "failed"]

    async def test_waits_for_a_place(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work, parallel=2)) as module:
            runs = [await started(module, house) for _ in range(3)]
            await until(lambda: gate.begun == 2)
            third = await module.runs.get(ANNA, runs[2].id)

            gate.may_end.set()
            last = [await ended(module, run) for run in runs]

        assert third.status == "pending"
        assert [run.status for run in last] == ["completed"] * 3

    async def test_begins_in_the_order_of_starting(self, house, cache):
        begun: list = []
        may_end = asyncio.Event()

        async def work(turn):
            begun.append(turn.run.id)
            await may_end.wait()
            return Ended()

        async with opened(house, cache, Kind("test", work, parallel=1)) as module:
            runs = [await started(module, house) for _ in range(6)]
            may_end.set()
            for run in runs:
                await ended(module, run)

        assert begun == [run.id for run in runs]

    async def pair(self, house, module, gate: Gate) -> list:
        """Two runs that are started by one transaction, when there is a place for one."""

        async def promised() -> list | None:
            gate.may_end.set()
            run = await started(module, house)
            await ended(module, run)
            if run.status != "running":
                return None
            gate.may_end.clear()
            gate.begun = 0
            async with house.begin() as session:
                runs = [(await module.runs.start(session, Wish(ANNA, "test")))[0] for _ in range(2)]
            if [run.status for run in runs] == ["running"] * 2:
                return runs
            # A run has ended shortly before its place is free.
            gate.may_end.set()
            for run in runs:
                await ended(module, run)
            return None

        return await until(promised)

    async def test_that_was_promised_a_place_waits_until_it_is_free(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work, parallel=1)) as module:
            runs = await self.pair(house, module, gate)
            await until(lambda: gate.begun)
            assert gate.begun == 1

            gate.may_end.set()
            assert [(await ended(module, run)).status for run in runs] == ["completed"] * 2

    async def test_that_was_promised_a_place_can_be_cancelled_before(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work, parallel=1)) as module:
            first, second = await self.pair(house, module, gate)
            await until(lambda: gate.begun)

            await module.runs.cancel(ANNA, second.id)
            gate.may_end.set()
            await ended(module, first)

        assert gate.begun == 1

    async def test_that_was_promised_a_place_is_not_lost_at_a_shutdown(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work, parallel=1)) as module:
            runs = await self.pair(house, module, gate)
            await until(lambda: gate.begun)
        last = [await module.runs.get(ANNA, run.id) for run in runs]

        assert [run.status for run in last] == ["interrupted"] * 2

    async def test_of_a_kind_that_nobody_does_here_waits(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            other = await started(module, house, "other")
            await ended(module, await started(module, house))

            assert (await module.runs.get(ANNA, other.id)).status == "pending"

    async def test_that_is_under_way_at_a_shutdown_is_interrupted(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work)) as module:
            run = await started(module, house)
            await until(lambda: gate.begun)
        run = await module.runs.get(ANNA, run.id)

        assert (run.status, run.error_code) == ("interrupted", "shutdown")

    async def test_a_kind_is_offered_once(self, house, cache):
        with pytest.raises(ValueError, match="offered twice"):
            async with opened(house, cache, Kind("test", at_once), Kind("test", at_once)):
                pass


class TestFind:
    async def test_finds_runs_by_their_ids_and_leaves_out_what_is_not_there(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            runs = [await ended(module, await started(module, house)) for _ in range(2)]
            async with house.read() as session:
                found = await module.runs.find(session, [runs[0].id, runs[1].id, ANNA])

        assert found == {run.id: run for run in runs}


class TestIdempotencyKey:
    async def test_starts_one_run_however_often_it_is_sent(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            wish = {"idempotency_key": "k", "digest": "d"}
            first = await started(module, house, **wish)
            await ended(module, first)

            again = await started(module, house, **wish)

        assert again.id == first.id
        assert again.status == "completed"

    async def test_of_another_request_is_refused(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            await started(module, house, idempotency_key="k", digest="d")

            with pytest.raises(KeyReused):
                await started(module, house, idempotency_key="k", digest="other")

    async def test_of_somebody_else_is_another_key(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            one = await started(module, house, idempotency_key="k", digest="d")
            other = await started(module, house, user_id=BERT, idempotency_key="k", digest="d")

        assert one.id != other.id

    async def test_starts_one_run_for_racing_callers(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            racing = (started(module, house, idempotency_key="k", digest="d") for _ in range(20))
            found = await asyncio.gather(*racing, return_exceptions=True)

        assert len({run.id for run in found if not isinstance(run, Exception)}) == 1
        assert not [error for error in found if isinstance(error, Exception)]


class TestAsk:
    def kind(self, heard: list, *, times: int = 1, within_s: float = 30.0) -> Kind:
        async def work(turn):
            for number in range(times):
                question = News("question", {"number": number})
                try:
                    heard.append(await turn.ask(question, within_s=within_s))
                except TimeoutError:
                    heard.append("nothing")
            return Ended()

        return Kind("test", work)

    async def test_waits_for_an_answer_and_goes_on(self, house, cache):
        heard: list = []
        async with opened(house, cache, self.kind(heard)) as module:
            run = await is_in(module, await started(module, house), "awaiting")
            async with house.begin() as session:
                await module.runs.answer(session, run.id, run.question_seq, {"text": "yes"})
            events = await log(module, run)

        assert heard == [{"text": "yes"}]
        assert story(events) == [
            "pending",
            "running",
            "question",
            "awaiting",
            "answered",
            "running",
            "completed",
        ]
        assert events[2].seq == run.question_seq

    async def test_a_late_answer_never_answers_the_next_question(self, house, cache):
        heard: list = []
        async with opened(house, cache, self.kind(heard, times=2)) as module:
            first = await is_in(module, await started(module, house), "awaiting")
            async with house.begin() as session:
                await module.runs.answer(session, first.id, first.question_seq, {"n": 1})
            await until(lambda: heard)
            second = await is_in(module, first, "awaiting")

            with pytest.raises(NotAwaiting):
                async with house.begin() as session:
                    await module.runs.answer(session, first.id, first.question_seq, {"n": 9})
            async with house.begin() as session:
                await module.runs.answer(session, second.id, second.question_seq, {"n": 2})
            await ended(module, second)

        assert heard == [{"n": 1}, {"n": 2}]

    async def test_of_all_who_answer_one_succeeds(self, house, cache):
        heard: list = []
        async with opened(house, cache, self.kind(heard)) as module:
            run = await is_in(module, await started(module, house), "awaiting")

            async def answer(number: int) -> None:
                async with house.begin() as session:
                    await module.runs.answer(session, run.id, run.question_seq, {"n": number})

            found = await asyncio.gather(*(answer(n) for n in range(10)), return_exceptions=True)
            await ended(module, run)

        assert sorted(type(one).__name__ for one in found) == ["NoneType"] + ["NotAwaiting"] * 9
        assert heard == [{"n": found.index(None)}]

    async def test_goes_on_without_when_nobody_answers(self, house, cache):
        heard: list = []
        async with opened(house, cache, self.kind(heard, within_s=0.05)) as module:
            events = await log(module, await started(module, house))

        assert heard == ["nothing"]
        assert story(events)[-3:] == ["awaiting", "running", "completed"]

    async def test_an_answer_that_is_rolled_back_was_none(self, house, cache):
        heard: list = []
        async with opened(house, cache, self.kind(heard)) as module:
            run = await is_in(module, await started(module, house), "awaiting")
            with suppress(ZeroDivisionError):
                async with house.begin() as session:
                    await module.runs.answer(session, run.id, run.question_seq, {"n": 1})
                    raise ZeroDivisionError
            async with house.begin() as session:
                await module.runs.answer(session, run.id, run.question_seq, {"n": 2})
            await ended(module, run)

        assert heard == [{"n": 2}]


class TestCancel:
    async def test_ends_the_run_and_stops_its_work(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work)) as module:
            run = await started(module, house)
            await until(lambda: gate.begun)

            found = await module.runs.cancel(ANNA, run.id)

            assert found.status == "cancelled"
            await until(lambda: gate.cancelled)
            assert story(await log(module, run)) == ["pending", "running", "cancelled"]

    async def test_leaves_the_work_in_peace_to_tidy_up(self, house, cache):
        begun, tidied = asyncio.Event(), asyncio.Event()

        async def work(turn):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                # Longer than the news of the end are on their way, which tell it a second time.
                for _ in range(100):
                    await asyncio.sleep(0)
                tidied.set()

        async with opened(house, cache, Kind("test", work)) as module:
            run = await started(module, house)
            await begun.wait()

            await module.runs.cancel(ANNA, run.id)

            await until(tidied.is_set)

    async def test_of_one_that_has_not_begun_lets_it_never_begin(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work, parallel=1)) as module:
            first, second = [await started(module, house) for _ in range(2)]
            await until(lambda: gate.begun)

            await module.runs.cancel(ANNA, second.id)
            gate.may_end.set()
            await ended(module, first)

            assert (await module.runs.get(ANNA, second.id)).status == "cancelled"
        assert gate.begun == 1

    async def test_of_one_that_waits_for_an_answer_ends_the_wait(self, house, cache):
        async def work(turn):
            await turn.ask(News("question"), within_s=30)
            return Ended()

        async with opened(house, cache, Kind("test", work)) as module:
            run = await is_in(module, await started(module, house), "awaiting")

            await module.runs.cancel(ANNA, run.id)

            with pytest.raises(NotAwaiting):
                async with house.begin() as session:
                    await module.runs.answer(session, run.id, run.question_seq, {})

    async def test_is_final_whatever_the_work_still_says(self, house, cache):
        said: list = []

        async def work(turn):
            try:
                await asyncio.Event().wait()
            finally:
                said.append("before")
                await turn.say(News("output"))
                said.append("after")

        async with opened(house, cache, Kind("test", work)) as module:
            run = await is_in(module, await started(module, house), "running")
            await module.runs.cancel(ANNA, run.id)
            await until(lambda: said)
            events = await log(module, run)

        assert said == ["before"]
        assert story(events) == ["pending", "running", "cancelled"]

    async def test_twice_is_once(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work)) as module:
            run = await started(module, house)
            first = await module.runs.cancel(ANNA, run.id)

            assert (await module.runs.cancel(ANNA, run.id)).last_seq == first.last_seq

    async def test_of_what_has_ended_changes_nothing(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            run = await ended(module, await started(module, house))

            assert (await module.runs.cancel(ANNA, run.id)).status == "completed"

    async def test_of_somebody_elses_is_not_found(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work)) as module:
            run = await started(module, house)

            with pytest.raises(NoSuchRun):
                await module.runs.cancel(BERT, run.id)

            assert (await module.runs.get(ANNA, run.id)).status in {"pending", "running"}


class TestFollow:
    async def test_tells_what_was_before_and_what_comes(self, house, cache):
        gate = Gate()
        async with opened(house, cache, Kind("test", gate.work)) as module:
            run = await is_in(module, await started(module, house), "running")
            heard: list = []

            async def follow() -> None:
                async for event in module.runs.follow(ANNA, run.id, after_seq=1):
                    heard.extend([event.seq])

            following = asyncio.create_task(follow())
            await until(lambda: heard == [2])
            gate.may_end.set()
            await following

        assert heard == [2, 3]

    async def test_tells_long_logs_whole(self, house, cache):
        async def work(turn):
            for _ in range(12):
                await turn.say(*(News("output", {"n": n}) for n in range(100)))
            return Ended()

        async with opened(house, cache, Kind("test", work)) as module:
            events = await log(module, await started(module, house))

        assert [event.seq for event in events] == list(range(1, 1204))

    async def test_of_somebody_elses_is_not_found(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            run = await ended(module, await started(module, house))

            with pytest.raises(NoSuchRun):
                await anext(module.runs.follow(BERT, run.id, after_seq=0))


class TestPage:
    async def test_is_of_one_kind_one_title_and_some_states(self, house, cache):
        async with opened(house, cache, Kind("test", at_once), Kind("other", at_once)) as module:
            wanted = [await started(module, house, title="a") for _ in range(2)]
            other = [await started(module, house, title="b"), await started(module, house, "other")]
            for run in (*wanted, *other):
                await ended(module, run)

            search = Search(ANNA, "test", "a", ("completed",), offset=1, limit=9)
            found = await module.runs.page(search)

        assert [run.id for run in found] == [wanted[0].id]


class TestTally:
    async def test_counts_the_runs_of_a_kind_by_how_far_they_are(self, house, cache):
        gate = Gate()
        kinds = (Kind("test", at_once), Kind("slow", gate.work))
        async with opened(house, cache, *kinds) as module:
            for _ in range(2):
                await ended(module, await started(module, house))
            await started(module, house, "slow")

            of_test = await module.runs.tally(ANNA, "test")
            of_slow = await module.runs.tally(ANNA, "slow")
            of_bert = await module.runs.tally(BERT, "test")

        assert (of_test, of_slow, of_bert) == ({"completed": 2}, {"running": 1}, {})


class TestSweep:
    async def rows(self, db) -> tuple[int, int]:
        async with db.read() as session:
            runs = await session.scalar(select(func.count()).select_from(RunRow))
            events = await session.scalar(select(func.count()).select_from(EventRow))
        return runs, events

    async def test_forgets_what_ended_long_ago_and_nothing_that_lives(self, house, cache):
        gate, clock = Gate(), FakeClock()
        kinds = Kind("test", at_once), Kind("gate", gate.work)
        async with opened(house, cache, *kinds, clock=clock) as module:
            old = await ended(module, await started(module, house))
            alive = await started(module, house, "gate")
            clock.advance(3600)
            young = await ended(module, await started(module, house))

            await module.runs.sweep(keep=timedelta(minutes=30), keep_count=99)

            found = {run.id for run in await module.runs.page(Search(ANNA))}
            assert found == {alive.id, young.id}
            with pytest.raises(NoSuchRun):
                await module.runs.get(ANNA, old.id)
            assert (await self.rows(house))[1] == 5 + 2

    async def test_keeps_the_newest_of_each_user(self, house, cache):
        async with opened(house, cache, Kind("test", at_once)) as module:
            mine = [await ended(module, await started(module, house)) for _ in range(4)]
            theirs = await ended(module, await started(module, house, user_id=BERT))

            await module.runs.sweep(keep=timedelta(days=1), keep_count=2)

            found = [run.id for run in await module.runs.page(Search(ANNA))]
            assert found == [mine[3].id, mine[2].id]
            assert (await module.runs.get(BERT, theirs.id)).status == "completed"
