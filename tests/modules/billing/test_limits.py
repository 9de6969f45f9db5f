"""Limits and tiers: who may change whose, and that it counts at once."""

import pytest

from app.kernel.db import uuid7
from app.modules.billing.api import LimitReached
from app.modules.billing.domain.limits import Limits
from app.modules.billing.service.limits import OwnerOnly, SubjectNotFound
from tests.modules.billing.calls import KEY, OTHER, USER, claim, key_of, used
from tests.modules.billing.desks import Desk, people, put_limits

ANNA = key_of()
OTTO = key_of(OTHER, uuid7())
OWNER = key_of(uuid7(), uuid7(), "owner")


@pytest.fixture
async def staffed(desk: Desk) -> Desk:
    await people(desk.db)
    return desk


async def own_rpm(desk: Desk) -> list[int]:
    return [bound.rpm for bound in (await desk.rules.of(ANNA)).bounds]


class TestOwn:
    async def test_of_an_owner_are_a_list_of_nothing(self, desk):
        assert await desk.limits.own(OWNER) == (None, [])

    async def test_are_what_is_left_of_each_limit(self, desk):
        await put_limits(desk, "key", KEY, rpm=5, budget_nanos=100)
        await desk.meter.reserve(claim(ANNA, 10, 40))

        tier, found = await desk.limits.own(ANNA)

        assert tier == "free"
        assert {(one.name, one.holder): one.left for one in found} == {
            ("rpm", "key"): 4,
            ("budget", "key"): 60,
            ("rpm", "tier"): 19,
            ("tpm", "tier"): 99_990,
            ("parallel", "tier"): 3,
            ("budget", "tier"): 999_999_960,
        }

    async def test_know_what_was_spent_before_anybody_asked(self, desk):
        await put_limits(desk, "key", KEY, budget_nanos=100, budget_period="total")
        desk.meter.settle(used(claim(ANNA), cost_nanos=30))

        _, found = await desk.limits.own(ANNA)

        assert found[0].left == 70


class TestPut:
    async def test_a_user_limits_a_key_of_their_own(self, staffed):
        await staffed.limits.put(ANNA, "key", KEY, Limits(rpm=1))

        assert await own_rpm(staffed) == [1, 20]

    async def test_a_second_time_replaces_all_of_the_first(self, staffed):
        await staffed.limits.put(ANNA, "key", KEY, Limits(rpm=1))

        await staffed.limits.put(ANNA, "key", KEY, Limits(tpm=2))

        bound = (await staffed.rules.of(ANNA)).bounds[0]
        assert (bound.rpm > 1, bound.tpm) == (True, 2)

    async def test_counts_from_the_next_call_on(self, staffed):
        await staffed.meter.reserve(claim(ANNA))
        await staffed.limits.put(ANNA, "key", KEY, Limits(rpm=1))
        await staffed.meter.reserve(claim(ANNA))

        with pytest.raises(LimitReached):
            await staffed.meter.reserve(claim(ANNA))

    @pytest.mark.parametrize("kind", ["key", "user"])
    async def test_the_owner_limits_anybody(self, staffed, kind):
        await staffed.limits.put(OWNER, kind, KEY if kind == "key" else USER, Limits(rpm=1))

        assert 1 in await own_rpm(staffed)

    @pytest.mark.parametrize(("kind", "subject_id"), [("key", KEY), ("user", USER)])
    async def test_what_is_somebody_elses_is_not_there(self, staffed, kind, subject_id):
        with pytest.raises(SubjectNotFound):
            await staffed.limits.put(OTTO, kind, subject_id, Limits())

    @pytest.mark.parametrize(("kind", "subject_id"), [("key", USER), ("user", KEY)])
    async def test_what_is_nobodys_is_not_there(self, staffed, kind, subject_id):
        with pytest.raises(SubjectNotFound):
            await staffed.limits.put(OWNER, kind, subject_id, Limits())

    async def test_nobody_changes_what_the_owner_allows_them(self, staffed):
        with pytest.raises(OwnerOnly):
            await staffed.limits.put(ANNA, "user", USER, Limits())


class TestDrop:
    async def test_leaves_what_the_tier_allows(self, staffed):
        await staffed.limits.put(ANNA, "key", KEY, Limits(rpm=1))

        await staffed.limits.drop(ANNA, "key", KEY)

        assert await own_rpm(staffed) == [20]

    async def test_of_limits_that_are_not_there_is_fine(self, staffed):
        await staffed.limits.drop(ANNA, "key", KEY)

        assert await own_rpm(staffed) == [20]

    async def test_what_is_somebody_elses_is_not_there(self, staffed):
        with pytest.raises(SubjectNotFound):
            await staffed.limits.drop(OTTO, "key", KEY)


class TestPutTier:
    async def test_counts_from_the_next_call_on(self, staffed):
        await staffed.rules.of(ANNA)

        await staffed.limits.put_tier(OWNER, USER, "power")
        await staffed.limits.put_tier(OWNER, USER, "pro")

        assert await own_rpm(staffed) == [60]

    async def test_is_the_owners_alone(self, staffed):
        with pytest.raises(OwnerOnly):
            await staffed.limits.put_tier(ANNA, USER, "team")

    async def test_needs_a_user(self, staffed):
        with pytest.raises(SubjectNotFound):
            await staffed.limits.put_tier(OWNER, uuid7(), "team")
