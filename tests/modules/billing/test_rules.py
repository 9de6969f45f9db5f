"""What is remembered of callers' limits, and when it is not."""

import asyncio
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from app.modules.auth.api import Principal
from app.modules.billing.domain.limits import Limits
from app.modules.billing.repository.limits import LimitsRepository
from app.modules.billing.service.rules import MAX_AGE_S, TOPIC, Rules
from tests.modules.auth.people import DeafCache
from tests.modules.billing import desks
from tests.modules.billing.calls import KEY, USER, key_of
from tests.modules.billing.desks import people, put_limits
from tests.waiting import until

ANNA = key_of()


async def change(db, **limits: int) -> None:
    """As another process does, before its news has come."""
    async with db.begin() as session:
        await LimitsRepository(session).put("key", KEY, Limits(**limits))


class TestOf:
    async def test_a_user_without_an_account_is_on_the_lowest_tier(self, desk):
        terms = await desk.rules.of(ANNA)

        assert (terms.tier, terms.bounds[0].rpm) == ("free", 20)

    async def test_an_account_has_its_tier(self, desk):
        await people(desk.db)
        async with desk.db.begin() as session:
            await LimitsRepository(session).put_tier(USER, "team")

        assert (await desk.rules.of(ANNA)).tier == "team"

    async def test_no_tier_limits_an_owner(self, desk):
        terms = await desk.rules.of(key_of(role="owner"))

        assert (terms.tier, terms.bounds) == (None, ())

    async def test_a_session_is_not_limited_as_a_key(self, desk):
        await change(desk.db, rpm=1)
        session = Principal(USER, "session", KEY, "owner", frozenset({"full"}))

        assert (await desk.rules.of(session)).bounds == ()


class TestRecall:
    async def test_remembers_what_was_asked(self, desk):
        terms = await desk.rules.of(ANNA)

        assert desk.rules.recall(KEY) is terms

    async def test_asks_again_after_a_while(self, desk, cache):
        now = [0.0]
        rules = Rules(desk.db, cache, lambda: now[0])
        async with desks.following(rules):
            await rules.of(ANNA)

            now[0] = MAX_AGE_S

            assert rules.recall(KEY) is None

    async def test_those_who_ask_together_cost_one_look(self, sqlite, cache):
        class Counted:
            reads = 0

            def read(self):
                self.reads += 1
                return sqlite.read()

        db = Counted()
        rules = Rules(db, cache)
        async with desks.following(rules):
            db.reads = 0
            await rules.forget(KEY)
            found = await asyncio.gather(*(rules.of(ANNA) for _ in range(50)))

        assert db.reads == 1
        assert all(terms is found[0] for terms in found)

    async def test_remembers_a_bounded_number_of_callers(self, sqlite, cache):
        rules = Rules(sqlite, cache, max_entries=3)
        async with desks.following(rules):
            for number in range(10, 14):
                await rules.of(key_of(key_id=UUID(int=number)))

            known = [n for n in range(10, 14) if rules.recall(UUID(int=n)) is not None]

        assert known == [11, 12, 13]


class TestForget:
    @pytest.mark.parametrize("changed", [USER, KEY])
    async def test_a_change_counts_from_the_next_call_on(self, desk, changed):
        await desk.rules.of(ANNA)
        await change(desk.db, rpm=3)

        await desk.rules.forget(changed)

        assert (await desk.rules.of(ANNA)).bounds[0].rpm == 3

    async def test_a_change_reaches_every_process(self, desk, sqlite, journal, cache):
        async with desks.opened(sqlite, journal, cache) as other:
            await other.rules.of(ANNA)

            await put_limits(desk, "key", KEY, rpm=3)

            assert (await other.rules.of(ANNA)).bounds[0].rpm == 3

    async def test_what_was_read_before_a_change_is_not_remembered(self, sqlite, cache):
        class Overtaken:
            """A database in which something changes right after it was read."""

            is_overtaken = False

            @asynccontextmanager
            async def read(self):
                async with sqlite.read() as session:
                    yield session
                if self.is_overtaken:
                    await rules.forget(KEY)

        db = Overtaken()
        rules = Rules(db, cache)
        async with desks.following(rules):
            db.is_overtaken = True

            await rules.of(ANNA)

            assert rules.recall(KEY) is None

    async def test_a_change_that_nobody_hears_of_is_made_all_the_same(self, sqlite):
        rules = Rules(sqlite, DeafCache())
        await change(sqlite, rpm=3)

        await rules.forget(KEY)

        assert (await rules.of(ANNA)).bounds[0].rpm == 3


class TestFollow:
    async def test_nothing_is_remembered_while_news_may_be_missed(self, sqlite):
        cache = DeafCache()
        rules = Rules(sqlite, cache)
        async with desks.following(rules, is_heard=False):
            await rules.of(ANNA)
            before = rules.recall(KEY)
            cache.may_hear.set()
            await until(lambda: is_remembered(rules))

            cache.loses.set()
            await until(lambda: rules.recall(KEY) is None)
            await rules.of(ANNA)

            assert before is None
            assert rules.recall(KEY) is None

    async def test_news_that_cannot_be_read_forgets_everything(self, desk, cache):
        await desk.rules.of(ANNA)

        await cache.publish(TOPIC, "of a later version")

        await until(lambda: desk.rules.recall(KEY) is None)


async def is_remembered(rules: Rules) -> bool:
    await rules.of(ANNA)
    return rules.recall(KEY) is not None
