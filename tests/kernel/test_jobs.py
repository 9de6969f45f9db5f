"""Work that outlives a request, on both databases."""

from datetime import timedelta

import pytest

from app.adapters.queue.sql import back_off
from app.kernel.jobs import DEAD, READY, Job, defer, emit
from tests.kernel.diary import Diary, put_off, rows


class TestDefer:
    async def test_hands_the_job_its_arguments(self, db, runner, diary):
        await put_off(db, "test.write", text="é\n", other="2")

        assert await runner.run_due() == 1
        assert diary.entries == [{"text": "é\n", "other": "2"}]

    async def test_leaves_no_row_of_a_finished_job(self, db, runner, diary):
        await put_off(db, "test.write")

        await runner.run_due()

        assert await rows(db) == []

    async def test_shows_the_job_to_nobody_before_the_commit(self, db, runner, diary):
        async with db.begin() as session:
            defer(session, "test.write")
            await session.flush()
            seen = await rows(db)

        assert seen == []
        assert await runner.run_due() == 1

    async def test_wakes_the_runner_when_the_transaction_is_over(self, db, book):
        seen: list[str] = []
        book.wake = lambda: seen.append("woken")

        async with db.begin() as session:
            defer(session, "test.write")
            await session.flush()
            seen.append("flushed")
        async with db.begin():
            seen.append("nothing deferred")

        assert seen == ["flushed", "woken", "nothing deferred"]

    async def test_forgets_the_job_when_the_transaction_fails(self, db, runner, diary):
        async def write_and_fail() -> None:
            async with db.begin() as session:
                defer(session, "test.write")
                raise KeyError

        with pytest.raises(KeyError):
            await write_and_fail()

        assert await runner.run_due() == 0
        assert diary.entries == []

    async def test_waits_until_the_job_is_due(self, db, runner, diary, clock):
        async with db.begin() as session:
            defer(session, "test.write", due_at=clock.now + timedelta(seconds=10))
        clock.advance(9)
        early = await runner.run_due()

        clock.advance(1)

        assert (early, await runner.run_due()) == (0, 1)

    async def test_runs_what_is_due_first_first(self, db, runner, diary, clock):
        for second in (3, 1, 2):
            async with db.begin() as session:
                due_at = clock.now + timedelta(seconds=second)
                defer(session, "test.write", due_at=due_at, second=str(second))
        clock.advance(5)

        await runner.run_due()

        assert diary.entries == [{"second": "1"}, {"second": "2"}, {"second": "3"}]

    async def test_takes_arguments_called_like_its_own(self, db, runner, diary):
        await put_off(db, "test.write", event="e", name="n")

        await runner.run_due()

        assert diary.entries == [{"event": "e", "name": "n"}]


class TestEmit:
    async def test_reaches_every_follower(self, db, runner, book):
        one, two, stranger = Diary(), Diary(), Diary()
        book.add(Job("one.clean", one.run, on="auth.user-deleted"))
        book.add(Job("two.clean", two.run, on="auth.user-deleted"))
        book.add(Job("two.greet", stranger.run, on="auth.user-created"))

        async with db.begin() as session:
            emit(session, "auth.user-deleted", user_id="7")
        await runner.run_due()

        assert one.entries == two.entries == [{"user_id": "7"}]
        assert stranger.entries == []

    async def test_says_nothing_when_the_transaction_fails(self, db, runner, book):
        diary = Diary()
        book.add(Job("one.clean", diary.run, on="auth.user-deleted"))

        async def tell_and_fail() -> None:
            async with db.begin() as session:
                emit(session, "auth.user-deleted", user_id="7")
                raise KeyError

        with pytest.raises(KeyError):
            await tell_and_fail()

        assert await runner.run_due() == 0

    async def test_does_not_mind_that_nobody_listens(self, db, runner):
        async with db.begin() as session:
            emit(session, "auth.user-deleted", user_id="7")

        assert await rows(db) == []


class TestJobBook:
    def test_refuses_a_job_declared_twice(self, book, diary):
        with pytest.raises(ValueError, match=r"declared twice: test\.write"):
            book.add(Job("test.write", diary.run))


class TestRetry:
    async def test_comes_back_after_a_pause_and_keeps_the_error(self, db, runner, book, clock):
        diary = Diary(failures=1)
        book.add(Job("test.write", diary.run))
        await put_off(db, "test.write")

        await runner.run_due()

        (row,) = await rows(db)
        assert (row.state, row.attempts, row.error) == (READY, 1, "LookupError: attempt 1 failed")
        assert timedelta(seconds=1.5) <= row.due_at - clock.now <= timedelta(seconds=2)

    async def test_succeeds_when_the_pause_is_over(self, db, runner, book, clock):
        diary = Diary(failures=2)
        book.add(Job("test.write", diary.run))
        await put_off(db, "test.write")

        for _ in range(3):
            await runner.run_due()
            clock.advance(10)

        assert len(diary.entries) == 3
        assert await rows(db) == []

    async def test_is_buried_after_the_last_attempt(self, db, runner, book, clock):
        diary = Diary(failures=99)
        book.add(Job("test.write", diary.run, max_attempts=3))
        await put_off(db, "test.write", text="kept")

        for _ in range(10):
            await runner.run_due()
            clock.advance(5000)

        (row,) = await rows(db)
        assert len(diary.entries) == 3
        assert (row.state, row.error) == (DEAD, "LookupError: attempt 3 failed")
        assert row.args == {"text": "kept"}

    async def test_holds_up_no_other_job(self, db, runner, book, diary):
        book.add(Job("test.fail", Diary(failures=99).run))
        await put_off(db, "test.fail")
        await put_off(db, "test.write")

        await runner.run_due()

        assert len(diary.entries) == 1

    async def test_keeps_a_long_error_short(self, db, runner, book):
        async def fail() -> None:
            raise LookupError("x" * 100_000)

        book.add(Job("test.fail", fail))
        await put_off(db, "test.fail")

        await runner.run_due()

        (row,) = await rows(db)
        assert len(row.error) == 2000

    async def test_buries_a_job_that_nobody_has(self, db, runner, clock):
        await put_off(db, "gone.module")

        ran = [await runner.run_due()]
        clock.advance(100_000)
        ran.append(await runner.run_due())

        (row,) = await rows(db)
        assert ran == [1, 0]
        assert (row.state, row.error) == (DEAD, "no enabled module has this job")

    async def test_buries_a_job_that_does_not_take_its_arguments(self, db, runner, book, clock):
        async def narrow(known: str) -> None: ...

        book.add(Job("test.narrow", narrow, max_attempts=1))
        await put_off(db, "test.narrow", unknown="1")

        await runner.run_due()

        (row,) = await rows(db)
        assert row.state == DEAD
        assert row.error.startswith("TypeError: ")

    def test_pauses_longer_each_time_up_to_an_hour(self):
        pauses = [back_off(attempt).total_seconds() for attempt in range(1, 20)]

        longest = [min(3600.0, 2.0**attempt) for attempt in range(1, 20)]
        assert all(
            0.75 * most <= pause <= most for pause, most in zip(pauses, longest, strict=True)
        )
