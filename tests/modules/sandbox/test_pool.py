"""One project's workers: ready, handed out in order, replaced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.domain.projects import Project
from app.modules.sandbox.ports import TemplateFailed, Worker, WorkerFailed
from app.modules.sandbox.service.pool import Pool, PoolClosed, QueueFull
from tests.fakes.runner import FakeRunner
from tests.waiting import until

SMALL = Project("small", limits=Limits(queue=2))


@asynccontextmanager
async def opened(
    replicas: int = 2, project: Project = SMALL
) -> AsyncIterator[tuple[Pool, FakeRunner]]:
    runner = FakeRunner()
    pool = Pool(runner, project, {}, replicas)
    await pool.open()
    try:
        yield pool, runner
    finally:
        await pool.close()


def waiter(pool: Pool) -> "asyncio.Task[Worker]":
    return asyncio.create_task(pool.take())


class TestOpen:
    async def test_has_as_many_workers_ready_as_replicas(self) -> None:
        async with opened(3) as (pool, _):
            await until(lambda: pool.state.idle_workers == 3)

            assert pool.state.status == "up"

    async def test_says_why_the_template_could_not_be_made(self) -> None:
        runner = FakeRunner()
        runner.refusals = ["pip said no"]

        with pytest.raises(TemplateFailed, match="pip said no"):
            await Pool(runner, SMALL, {}, 1).open()


class TestTake:
    async def test_hands_out_a_ready_worker_and_replaces_it(self) -> None:
        async with opened(2) as (pool, runner):
            await until(lambda: pool.state.idle_workers == 2)

            taken = await pool.take()

            assert taken in runner.workers[:2]
            await until(lambda: len(runner.workers) == 3 and pool.state.idle_workers == 2)

    async def test_starts_one_where_none_is_ready(self) -> None:
        async with opened(1) as (pool, runner):
            taken = await pool.take()

            assert taken in runner.workers

    async def test_does_not_hand_out_a_worker_that_died_while_idle(self) -> None:
        async with opened(1) as (pool, runner):
            await until(lambda: pool.state.idle_workers == 1)
            runner.workers[0].kill()

            taken = await pool.take()

            assert taken is not runner.workers[0]
            assert not taken.is_gone

    async def test_serves_those_who_wait_in_the_order_of_asking(self) -> None:
        async with opened(1) as (pool, _):
            await pool.take()
            served: list[int] = []

            async def ask(number: int) -> None:
                await pool.take()
                served.append(number)

            asking = [asyncio.create_task(ask(number)) for number in range(2)]
            await until(lambda: pool.queued == 2)
            pool.release()
            await until(lambda: served == [0])
            pool.release()

            await asyncio.gather(*asking)
            assert served == [0, 1]

    async def test_a_waiter_who_leaves_takes_nobodys_place(self) -> None:
        async with opened(1) as (pool, _):
            await pool.take()
            leaving, staying = waiter(pool), waiter(pool)
            await until(lambda: pool.queued == 2)

            leaving.cancel()
            await until(leaving.done)
            pool.release()

            await staying
            assert pool.queued == 0

    async def test_one_who_leaves_at_the_moment_of_being_served_hands_the_place_on(self) -> None:
        async with opened(1) as (pool, _):
            await pool.take()
            leaving, staying = waiter(pool), waiter(pool)
            await until(lambda: pool.queued == 2)

            pool.release()
            leaving.cancel()

            await staying
            assert leaving.cancelled()

    async def test_tries_again_when_a_worker_does_not_start(self) -> None:
        async with opened(1) as (pool, runner):
            await until(lambda: pool.state.idle_workers == 1)
            runner.workers[0].kill()
            runner.templates[0].fails = 1

            taken = await pool.take()

            assert not taken.is_gone

    async def test_gives_up_after_a_few_tries(self) -> None:
        async with opened(1) as (pool, runner):
            await until(lambda: pool.state.idle_workers == 1)
            runner.workers[0].kill()
            runner.templates[0].fails = 100

            with pytest.raises(WorkerFailed):
                await pool.take()

            assert not pool.is_busy


class TestEnter:
    async def test_refuses_more_than_may_wait(self) -> None:
        async with opened(1) as (pool, _):
            await pool.take()
            waiting = [waiter(pool), waiter(pool)]
            await until(lambda: pool.queued == 2)

            with pytest.raises(QueueFull) as caught:
                pool.enter()

            assert caught.value.extra["retry_after_s"] == 1
            for one in waiting:
                one.cancel()

    async def test_counts_those_who_are_about_to_wait(self) -> None:
        async with opened(1) as (pool, _):
            pool.enter()
            pool.enter()

            with pytest.raises(QueueFull):
                pool.enter()

            pool.entered()
            pool.enter()


class TestPause:
    async def test_lets_another_work_meanwhile(self) -> None:
        async with opened(1) as (pool, _):
            await pool.take()
            waiting = waiter(pool)
            await until(lambda: pool.queued == 1)

            pool.pause()

            await waiting
            assert pool.paused == 1

    async def test_goes_on_at_once_also_where_all_places_are_taken(self) -> None:
        async with opened(1) as (pool, _):
            await pool.take()
            pool.pause()
            await pool.take()

            pool.resume()

            assert pool.paused == 0
            assert pool.is_busy


class TestLoss:
    async def test_makes_the_template_again(self) -> None:
        async with opened(1) as (pool, runner):
            await until(lambda: pool.state.idle_workers == 1)

            runner.templates[0].lost.set_result("it was killed")

            await until(lambda: len(runner.templates) == 2 and pool.state.idle_workers == 1)
            assert runner.templates[0].is_closed
            assert runner.workers[0].is_gone

    async def test_those_who_ask_meanwhile_wait_for_it(self) -> None:
        async with opened(1) as (pool, runner):
            await until(lambda: pool.state.idle_workers == 1)
            runner.refusals = ["not yet"]
            runner.templates[0].lost.set_result("it was killed")
            await until(lambda: runner.templates[0].is_closed)

            taken = await pool.take()

            assert taken in runner.templates[1].workers

    async def test_says_that_it_is_degraded_and_why(self) -> None:
        async with opened(1) as (pool, runner):
            runner.refusals = ["the disk is full"]

            runner.templates[0].lost.set_result("it was killed")

            await until(lambda: pool.state.status == "degraded")
            assert "the disk is full" in pool.state.error


class TestDrain:
    async def test_lets_those_finish_who_are_here(self) -> None:
        async with opened(1) as (pool, runner):
            await pool.take()
            waiting = waiter(pool)
            await until(lambda: pool.queued == 1)

            draining = asyncio.create_task(pool.drain())
            pool.release()
            await waiting
            assert not draining.done()
            pool.release()

            await draining
            assert runner.templates[0].is_closed

    async def test_takes_nobody_new(self) -> None:
        async with opened(1) as (pool, _):
            await pool.drain()

            with pytest.raises(PoolClosed):
                pool.enter()


class TestClose:
    async def test_those_who_wait_learn_it(self) -> None:
        async with opened(1) as (pool, _):
            await pool.take()
            waiting = waiter(pool)
            await until(lambda: pool.queued == 1)

            await pool.close()

            with pytest.raises(WorkerFailed):
                await waiting

    async def test_ends_the_idle_ones(self) -> None:
        async with opened(2) as (pool, runner):
            await until(lambda: pool.state.idle_workers == 2)

            await pool.close()

            assert all(worker.is_gone for worker in runner.workers)


class TestResize:
    async def test_more_are_made_ready(self) -> None:
        async with opened(1) as (pool, _):
            pool.resize(3)

            await until(lambda: pool.state.idle_workers == 3)

    async def test_fewer_are_kept(self) -> None:
        async with opened(3) as (pool, _):
            await until(lambda: pool.state.idle_workers == 3)

            pool.resize(1)

            await until(lambda: pool.state.idle_workers == 1)
