"""One suite for every ``Holds``: in this process, and in Redis."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.db import uuid7
from app.modules.billing.adapters.memory import MemoryHolds
from app.modules.billing.adapters.redis import HoldsDown, HoldTimes, RedisHolds
from app.modules.billing.adapters.scripts import SUBJECT
from app.modules.billing.domain.faults import BudgetSpent, LimitReached
from app.modules.billing.domain.limits import Bound, Budget
from app.modules.billing.domain.periods import Spent, month_of
from app.modules.billing.ports import Addition, Hold, Receipt
from tests.modules.billing.calls import budget, hold
from tests.waiting import until

CALLERS = 100
WINDOW_S = 0.6


@pytest.fixture(params=["memory", "redis"])
async def opener(request) -> AsyncIterator[Callable]:
    """Make holds with other times than usual; they are closed afterwards."""
    opened = []
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None

    def make(**times: float):
        holds = MemoryHolds(**times) if url is None else RedisHolds(url, HoldTimes(**times))
        opened.append(holds)
        return holds

    yield make
    for holds in opened:
        await holds.close()


@pytest.fixture
def holds(opener):
    return opener()


@pytest.fixture
def nothing_spent():
    return {"key:1": Spent(), "user:1": Spent()}


async def is_admitted(holds, one: Hold) -> bool:
    try:
        await holds.take(one, {})
    except (LimitReached, BudgetSpent):
        return False
    return True


async def standing(holds, bound: Bound, spent=None):
    taken = await holds.look((bound,), spent or {})
    return taken.standings[0]


async def settled(holds, bound: Bound, **wanted: int) -> None:
    """Wait until the standing is as wanted: what ends may be told in the background."""

    async def is_so() -> bool:
        found = await standing(holds, bound)
        return all(getattr(found, name) == value for name, value in wanted.items())

    await until(is_so)


class TestTake:
    async def test_admits_as_many_requests_as_the_limit(self, holds):
        bound = Bound("key:1", rpm=3)

        admitted = [await is_admitted(holds, hold(bound)) for _ in range(5)]

        assert admitted == [True, True, True, False, False]

    async def test_says_which_limit_is_reached_and_when_a_request_fits(self, holds):
        bound = Bound("key:1", rpm=1, rpm_holder="key")
        await holds.take(hold(bound), {})

        with pytest.raises(LimitReached) as refused:
            await holds.take(hold(bound), {})

        extra = refused.value.extra
        assert (extra["limit"], extra["holder"], extra["should_retry"]) == ("rpm", "key", True)
        assert 59 < extra["retry_after_s"] <= 61

    async def test_admits_as_many_tokens_as_the_limit(self, holds):
        bound = Bound("key:1", tpm=100)
        await holds.take(hold(bound, tokens=60), {})

        with pytest.raises(LimitReached) as refused:
            await holds.take(hold(bound, tokens=41), {})

        assert refused.value.extra["limit"] == "tpm"
        assert await is_admitted(holds, hold(bound, tokens=40))

    async def test_a_call_larger_than_a_minute_is_told_not_to_try_again(self, holds):
        bound = Bound("key:1", tpm=100)

        with pytest.raises(LimitReached) as refused:
            await holds.take(hold(bound, tokens=101), {})

        assert refused.value.extra["limit"] == "tpm"
        assert refused.value.extra["should_retry"] is False

    async def test_admits_as_many_calls_at_once_as_the_limit(self, holds):
        bound = Bound("key:1", parallel=2)
        first = hold(bound)
        await holds.take(first, {})
        await holds.take(hold(bound), {})

        with pytest.raises(LimitReached) as refused:
            await holds.take(hold(bound), {})

        assert refused.value.extra["limit"] == "parallel"
        assert refused.value.extra["retry_after_s"] == 1

    async def test_takes_nothing_from_anybody_when_one_subject_is_full(self, holds):
        roomy, full = Bound("key:1", rpm=9), Bound("user:1", rpm=1)
        await holds.take(hold(full), {})

        with pytest.raises(LimitReached):
            await holds.take(hold(roomy, full), {})

        assert (await standing(holds, roomy)).requests == 0

    async def test_tells_where_every_subject_stands_afterwards(self, holds):
        key, user = Bound("key:1", rpm=9), Bound("user:1", tpm=90)
        await holds.take(hold(user, tokens=5), {})

        taken = await holds.take(hold(key, user, tokens=7), {})

        found = [(one.requests, one.tokens, one.running) for one in taken.standings]
        assert found == [(1, 7, 1), (2, 12, 2)]

    async def test_the_same_call_twice_is_one_call(self, holds):
        bound = Bound("key:1", rpm=9)
        one = hold(bound, tokens=5)

        await holds.take(one, {})
        await holds.take(one, {})

        found = await standing(holds, bound)
        assert (found.requests, found.tokens, found.running) == (1, 5, 1)

    async def test_asks_what_is_spent_and_takes_nothing_meanwhile(self, holds):
        bound = Bound("key:1", budgets=budget(10))

        taken = await holds.take(hold(bound, cost_nanos=1), {})

        assert taken.missing == ("key:1",)
        assert (await standing(holds, bound, {"key:1": Spent()})).running == 0

    async def test_admits_until_spent_and_held_are_the_budget(self, holds):
        bound = Bound("key:1", budgets=budget(10))
        spent = {"key:1": Spent(total_nanos=4)}

        await holds.take(hold(bound, cost_nanos=5), spent)

        assert not await is_admitted(holds, hold(bound, cost_nanos=2))
        assert await is_admitted(holds, hold(bound, cost_nanos=1))

    async def test_money_that_is_only_held_may_come_back(self, holds, nothing_spent):
        bound = Bound("key:1", budgets=budget(10))
        await holds.take(hold(bound, cost_nanos=10), nothing_spent)

        with pytest.raises(BudgetSpent) as refused:
            await holds.take(hold(bound, cost_nanos=10), {})

        assert refused.value.extra["should_retry"] is True
        assert refused.value.extra["retry_after_s"] == 1

    async def test_money_that_is_spent_does_not(self, holds):
        bound = Bound("key:1", budgets=budget(10))

        with pytest.raises(BudgetSpent) as refused:
            await holds.take(hold(bound, cost_nanos=1), {"key:1": Spent(total_nanos=10)})

        extra = refused.value.extra
        assert (extra["limit"], extra["period"], extra["should_retry"]) == (
            "budget",
            "total",
            False,
        )

    async def test_only_this_periods_money_counts(self, holds):
        today = int(time.time() // 86_400)
        month = month_of(today)
        spent = {"key:1": Spent(1, 90, month, 70, today - 1, 50)}
        bound = Bound("key:1", budgets=(Budget(60, "day", "key"), Budget(75, "month", "user")))

        await holds.take(hold(bound, cost_nanos=5), spent)

        with pytest.raises(BudgetSpent) as refused:
            await holds.take(hold(bound, cost_nanos=1), {})
        assert (refused.value.extra["period"], refused.value.extra["holder"]) == ("month", "user")

    @pytest.mark.parametrize(
        "bound",
        [
            Bound("key:1", rpm=7),
            Bound("key:1", tpm=70),
            Bound("key:1", parallel=7),
            Bound("key:1", budgets=budget(70)),
        ],
        ids=["rpm", "tpm", "parallel", "budget"],
    )
    async def test_of_many_racing_callers_exactly_as_many_as_fit_get_in(
        self, holds, nothing_spent, bound
    ):
        await holds.look((bound,), nothing_spent)
        racing = [is_admitted(holds, hold(bound, tokens=10, cost_nanos=10)) for _ in range(CALLERS)]

        admitted = await asyncio.gather(*racing)

        assert admitted.count(True) == 7

    async def test_never_more_than_the_limit_in_any_window_however_they_come(self, opener):
        holds = opener(window_s=WINDOW_S)
        bound = Bound("key:1", rpm=5)
        began: list[float] = []
        ended: list[float] = []
        stop = time.monotonic() + 4 * WINDOW_S

        async def is_over() -> bool:
            for _ in range(random.choice([1, 1, 1, 9])):
                before = time.monotonic()
                if await is_admitted(holds, hold(bound)):
                    began.append(before)
                    ended.append(time.monotonic())
            return time.monotonic() > stop

        await until(is_over)

        assert len(began) > 10
        assert all(later - first > WINDOW_S for first, later in zip(began, ended[5:], strict=False))


class TestEnd:
    async def test_frees_the_place_and_the_money_and_keeps_the_request(self, holds, nothing_spent):
        bound = Bound("key:1", rpm=9, parallel=9, budgets=budget(100))
        one = hold(bound, tokens=50, cost_nanos=60)
        await holds.take(one, nothing_spent)

        holds.end(one.id, 0, 0, ())

        await settled(holds, bound, requests=1, tokens=0, running=0, held_nanos=0)

    async def test_turns_the_most_into_what_was_used(self, holds, nothing_spent):
        bound = Bound("key:1", tpm=100, budgets=budget(100))
        one = hold(bound, tokens=50, cost_nanos=60)
        await holds.take(one, nothing_spent)

        holds.end(one.id, 20, 25, ())

        await settled(holds, bound, tokens=20, held_nanos=25)

    async def test_returns_the_bounds_of_the_hold(self, holds):
        bound = Bound("key:1", rpm=9)
        one = hold(bound)
        await holds.take(one, {})

        assert holds.end(one.id, 0, 0, (Bound("key:2", rpm=1),)) == (bound,)

    async def test_without_a_hold_the_money_counts_for_the_given_bounds(self, holds, nothing_spent):
        bound = Bound("key:1", budgets=budget(100))
        await holds.look((bound,), nothing_spent)

        found = holds.end(uuid7(), 20, 25, (bound,))

        assert found == (bound,)
        await settled(holds, bound, held_nanos=25, tokens=0, requests=0)

    async def test_ending_twice_is_ending_once(self, holds, nothing_spent):
        bound = Bound("key:1", parallel=9, tpm=100)
        one, other = hold(bound, tokens=50), hold(bound, tokens=10)
        await holds.take(one, {})
        await holds.take(other, {})

        holds.end(one.id, 20, 0, ())
        holds.end(one.id, 20, 0, ())

        await settled(holds, bound, running=1, tokens=30)

    async def test_tokens_of_a_minute_that_is_over_change_nothing(self, opener):
        holds = opener(window_s=WINDOW_S / 4)
        bound = Bound("key:1", tpm=100)
        one = hold(bound, tokens=50)
        await holds.take(one, {})
        await settled(holds, bound, tokens=0)

        holds.end(one.id, 20, 0, ())

        await settled(holds, bound, running=0, tokens=0)


class TestReceive:
    async def test_what_was_owed_becomes_spent_and_counts_once(self, holds, nothing_spent):
        bound = Bound("key:1", budgets=budget(100))
        await holds.look((bound,), nothing_spent)
        holds.end(uuid7(), 0, 25, (bound,))
        await settled(holds, bound, held_nanos=25)

        holds.receive(Receipt({"key:1": 25}, [Addition("key:1", 1, 0, 25)]))

        await settled(holds, bound, held_nanos=0)
        assert (await standing(holds, bound)).spent_nanos["total"] == 25

    async def test_what_the_told_sum_has_in_it_is_not_added(self, holds):
        bound = Bound("key:1", budgets=budget(100))
        await holds.look((bound,), {"key:1": Spent(version=4, total_nanos=40)})
        marker = hold(bound)
        await holds.take(marker, {})

        holds.receive(Receipt({}, [Addition("key:1", 4, 0, 25), Addition("key:1", 5, 0, 1)]))
        holds.end(marker.id, 0, 0, ())

        await settled(holds, bound, running=0)
        assert (await standing(holds, bound)).spent_nanos["total"] == 41

    async def test_money_of_today_counts_for_the_day_and_the_month(self, holds):
        today = int(time.time() // 86_400)
        bound = Bound("key:1", budgets=budget(100))
        await holds.look((bound,), {"key:1": Spent(0, 3, month_of(today), 2, today, 1)})

        holds.receive(Receipt({}, [Addition("key:1", 1, today, 10)]))

        async def is_counted() -> bool:
            found = (await standing(holds, bound)).spent_nanos
            return found == {"day": 11, "month": 12, "total": 13}

        await until(is_counted)

    async def test_what_is_unsure_must_be_told_again(self, holds, nothing_spent):
        bound = Bound("key:1", budgets=budget(100))
        await holds.look((bound,), nothing_spent)

        holds.receive(Receipt(unsure=frozenset({"key:1"})))

        async def is_missing() -> bool:
            return (await holds.look((bound,), {})).missing == ("key:1",)

        await until(is_missing)


class TestTend:
    async def test_lets_go_of_a_call_that_nobody_has_ended(self, opener):
        times = {"longest_call_s": 0.05}
        holds = opener(**times)
        if isinstance(holds, RedisHolds):
            holds = opener(**times, lease_s=0.1, vouch_s=0.01)
        bound = Bound("key:1", parallel=1)
        await holds.take(hold(bound), {})

        async def is_free() -> bool:
            await holds.tend()
            return await is_admitted(holds, hold(bound))

        assert not await is_admitted(holds, hold(bound))
        await until(is_free)


class TestMemory:
    def test_forgets_subjects_of_which_nothing_is_left_to_count(self):
        now = [1000.0]
        holds = MemoryHolds(monotonic=lambda: now[0])
        for number in range(2500):
            one = hold(Bound(f"key:{number}", rpm=9))
            holds.take_now(one)
            holds.end(one.id, 0, 0, ())
        staying = hold(Bound("key:staying", rpm=9))
        holds.take_now(staying)

        now[0] += 62
        for _ in range(3):
            asyncio.run(holds.tend())

        assert holds.subjects == 1
        (found,) = asyncio.run(holds.look(staying.bounds, {})).standings
        assert found.running == 1

    def test_a_new_day_has_its_budget_again(self):
        wall = [10 * 86_400.0]
        now = [0.0]
        holds = MemoryHolds(monotonic=lambda: now[0], wall=lambda: wall[0])
        bound = Bound("key:1", budgets=budget(10, "day"))
        asyncio.run(holds.look((bound,), {"key:1": Spent(0, 10, month_of(10), 10, 10, 10)}))
        with pytest.raises(BudgetSpent) as refused:
            holds.take_now(hold(bound, cost_nanos=1))

        wall[0] += 86_400
        now[0] += 86_400

        assert refused.value.extra["retry_after_s"] == 86_400
        assert holds.take_now(hold(bound, cost_nanos=10))

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["take", "end", "release", "store"]),
                st.integers(0, 9),
                st.integers(0, 60),
            ),
            max_size=60,
        )
    )
    def test_spent_and_held_never_exceed_the_budget(self, steps):
        holds = MemoryHolds()
        bound = Bound("key:1", budgets=budget(100))
        asyncio.run(holds.look((bound,), {"key:1": Spent()}))
        running: dict[int, Hold] = {}
        owed: list[int] = []
        spent = version = 0

        for verb, number, nanos in steps:
            if verb == "take" and number not in running:
                one = hold(bound, cost_nanos=nanos)
                try:
                    holds.take_now(one)
                    running[number] = one
                except BudgetSpent:
                    committed = sum(h.cost_nanos for h in running.values()) + sum(owed) + spent
                    assert committed + nanos > 100
            elif verb in {"end", "release"} and (ended := running.pop(number, None)):
                cost = min(nanos, ended.cost_nanos) if verb == "end" else 0
                holds.end(ended.id, 0, cost, ())
                owed += [cost]
            elif verb == "store":
                version, paid = version + 1, sum(owed)
                holds.receive(Receipt({"key:1": paid}, [Addition("key:1", version, 0, paid)]))
                spent, owed = spent + paid, []
            (found,) = asyncio.run(holds.look((bound,), {})).standings
            held = sum(h.cost_nanos for h in running.values()) + sum(owed)
            assert (found.spent_nanos["total"], found.held_nanos) == (spent, held)
            assert spent + held <= 100


class TestRedis:
    @asynccontextmanager
    async def process(self, url: str, **times: float) -> AsyncIterator[RedisHolds]:
        holds = RedisHolds(url, HoldTimes(**times))
        yield holds
        await holds.close()

    async def test_two_processes_count_as_one(self, redis_url):
        bound = Bound("key:1", rpm=31, parallel=31, budgets=budget(310))
        async with self.process(redis_url) as one, self.process(redis_url) as other:
            await one.look((bound,), {"key:1": Spent()})

            admitted = await asyncio.gather(
                *(
                    is_admitted(random.choice([one, other]), hold(bound, cost_nanos=10))
                    for _ in range(CALLERS)
                )
            )

        assert admitted.count(True) == 31

    async def test_what_a_dead_process_held_ends_with_its_lease(self, redis_url):
        bound = Bound("key:1", parallel=1, budgets=budget(10))
        async with self.process(redis_url, lease_s=0.2) as dead, self.process(redis_url) as alive:
            await dead.look((bound,), {"key:1": Spent()})
            await dead.take(hold(bound, cost_nanos=10), {})

            assert not await is_admitted(alive, hold(bound, cost_nanos=10))
            await until(lambda: is_admitted(alive, hold(bound, cost_nanos=10)))

    async def test_what_a_living_process_holds_stays(self, redis_url):
        bound = Bound("key:1", parallel=1)
        times = {"lease_s": 0.3, "vouch_s": 0.0}
        async with self.process(redis_url, **times) as alive, self.process(redis_url) as other:
            await alive.take(hold(bound), {})
            stop = time.monotonic() + 1.0
            refusals = []

            async def is_over() -> bool:
                await alive.tend()
                refusals.append(not await is_admitted(other, hold(bound)))
                return time.monotonic() > stop

            await until(is_over)

        assert all(refusals)

    async def test_what_redis_has_lost_is_there_again(self, redis_url):
        import redis

        bound = Bound("key:1", parallel=9, budgets=budget(100))
        async with self.process(redis_url, vouch_s=0.0) as holds:
            await holds.look((bound,), {"key:1": Spent()})
            running = hold(bound, cost_nanos=30)
            await holds.take(running, {})
            holds.end(uuid7(), 0, 7, (bound,))
            await settled(holds, bound, held_nanos=37)
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()

            await holds.tend()

            assert (await holds.look((bound,), {})).missing == ("key:1",)
            await holds.look((bound,), {"key:1": Spent()})
            await settled(holds, bound, running=1, held_nanos=37)
            holds.end(running.id, 0, 0, ())
            await settled(holds, bound, running=0, held_nanos=7)

    async def test_what_is_spent_is_asked_for_again_in_time(self, redis_url):
        bound = Bound("key:1", budgets=budget(10))
        async with self.process(redis_url, fresh_s=0.1) as holds:
            await holds.look((bound,), {"key:1": Spent()})

            async def is_missing() -> bool:
                return bool((await holds.look((bound,), {})).missing)

            assert not await is_missing()
            await until(is_missing)

    async def test_rows_stored_while_the_sum_was_read_count_once(self, redis_url):
        bound = Bound("key:1", budgets=budget(100))
        stored = [Addition("key:1", version, 0, 10) for version in (1, 2)]
        async with self.process(redis_url) as holds, self.process(redis_url) as loader:
            holds.receive(Receipt({}, stored))
            holds.end(uuid7(), 0, 5, (bound,))
            await settled(holds, Bound("key:1", rpm=9), held_nanos=5)

            await loader.look((bound,), {"key:1": Spent(version=1, total_nanos=10)})

            assert (await standing(loader, bound)).spent_nanos["total"] == 20

    async def test_a_sum_that_is_known_is_not_replaced_by_an_older_one(self, redis_url):
        bound = Bound("key:1", budgets=budget(100))
        async with self.process(redis_url) as holds:
            await holds.look((bound,), {"key:1": Spent(version=2, total_nanos=20)})

            await holds.look((bound,), {"key:1": Spent(version=1, total_nanos=10)})

            assert (await standing(holds, bound)).spent_nanos["total"] == 20

    async def test_nobody_limited_is_let_in_while_redis_is_down(self):
        async with self.process("redis://127.0.0.1:1") as holds:
            with pytest.raises(HoldsDown):
                await holds.take(hold(Bound("key:1", rpm=9)), {})

    async def test_what_ended_while_redis_was_full_is_told_later(self, redis_url):
        import redis

        bound = Bound("key:1", parallel=9, budgets=budget(100))
        async with self.process(redis_url) as holds:
            await holds.look((bound,), {"key:1": Spent()})
            one = hold(bound, cost_nanos=30)
            await holds.take(one, {})
            with redis.Redis.from_url(redis_url) as client:
                client.config_set("maxmemory", "1")
                holds.end(one.id, 0, 12, ())
                with pytest.raises(HoldsDown):
                    await holds.take(hold(bound), {})
                client.config_set("maxmemory", "0")

            async def is_told() -> bool:
                await holds.tend()
                found = await standing(holds, bound)
                return (found.running, found.held_nanos) == (0, 12)

            await until(is_told)

    async def test_a_call_that_left_while_it_was_asked_for_holds_nothing(self, redis_url):
        bound = Bound("key:1", parallel=1)
        async with self.process(redis_url) as holds:
            await holds.look((bound,), {})
            asking = asyncio.create_task(holds.take(hold(bound), {}))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])

            await until(lambda: is_admitted(holds, hold(bound)))

    async def test_what_waits_for_a_lost_redis_is_bounded(self):
        holds = RedisHolds("redis://127.0.0.1:1", most_waiting=10)

        for number in range(20):
            holds.end(uuid7(), 0, 1, (Bound(f"key:{number}", budgets=budget(9)),))
        await holds.tend()

        assert holds.waiting == 10
        await holds.close()

    async def test_sums_that_nobody_asks_for_stay_small_and_leave(self, redis_url):
        import redis

        async with self.process(redis_url) as holds:
            for version in range(1, 1500):
                holds.receive(Receipt({}, [Addition("key:1", version, 0, 1)]))
                if version % 50 == 0:
                    await settled(holds, Bound("key:2", rpm=1), requests=0)

        with redis.Redis.from_url(redis_url) as client:
            (key,) = client.keys("*key:1")
            assert client.hlen(key) < 1100
            assert 0 < client.pttl(key) <= 600_000

    async def test_the_calendar_of_the_script_is_the_calendar(self, redis_url):
        import redis

        days = [random.randrange(0, 80_000) for _ in range(500)]
        script = SUBJECT + "return month_of(tonumber(ARGV[1]))"
        with redis.Redis.from_url(redis_url) as client:
            found = [client.eval(script, 0, day) for day in days]

        expected = [date.fromordinal(day + date(1970, 1, 1).toordinal()) for day in days]
        assert found == [day.year * 12 + day.month - 1 for day in expected]

    async def test_it_and_memory_agree_on_any_sequence(self, redis_url):
        rolls = random.Random(7)
        subjects = [
            Bound("key:1", rpm=40, parallel=5, budgets=budget(300)),
            Bound("user:1", tpm=900, parallel=7, budgets=budget(500, "month")),
        ]
        memory = MemoryHolds()
        running: list[Hold] = []
        version = 0
        async with self.process(redis_url) as holds:
            for one in (memory, holds):
                await one.look(tuple(subjects), {b.subject: Spent() for b in subjects})
            for _ in range(300):
                if rolls.random() < 0.6:
                    bounds = subjects if rolls.random() < 0.7 else [rolls.choice(subjects)]
                    wanted = hold(
                        *bounds, tokens=rolls.randrange(60), cost_nanos=rolls.randrange(60)
                    )
                    verdicts = [await is_admitted(one, wanted) for one in (memory, holds)]
                    assert verdicts[0] == verdicts[1]
                    running += [wanted] * verdicts[0]
                elif running:
                    ended = running.pop(rolls.randrange(len(running)))
                    tokens, nanos = rolls.randrange(60), rolls.randrange(30)
                    version += 1
                    paid = {b.subject: nanos for b in ended.bounds}
                    stored = [Addition(s, version, 0, nanos) for s in paid]
                    for one in (memory, holds):
                        one.end(ended.id, tokens, nanos, ())
                        one.receive(Receipt(paid, stored))
                    calls = len([h for h in running if subjects[0] in h.bounds])
                    await settled(holds, subjects[0], running=calls)
                    calls = len([h for h in running if subjects[1] in h.bounds])
                    await settled(holds, subjects[1], running=calls)
