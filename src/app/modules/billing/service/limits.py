"""Limits and tiers: what a caller has left, and who may change them."""

from uuid import UUID

from app.kernel.db import Database
from app.kernel.errors import Forbidden, NotFound
from app.kernel.ports import Clock
from app.modules.auth.api import Principal
from app.modules.billing.domain.limits import Limits, SubjectKind, Tier
from app.modules.billing.domain.standings import Allowance, allowances_of
from app.modules.billing.repository.limits import LimitsRepository
from app.modules.billing.service.meter import UsageMeter
from app.modules.billing.service.rules import Rules


class OwnerOnly(Forbidden):
    """What an account may use is decided by the owner of this house."""

    title = "Owner only"


class SubjectNotFound(NotFound):
    """No such key or user, or somebody else's."""

    title = "Limited subject not found"


class LimitService:
    """A change counts from the next call on, in every process."""

    def __init__(self, db: Database, rules: Rules, meter: UsageMeter, clock: Clock) -> None:
        self._db = db
        self._rules = rules
        self._meter = meter
        self._clock = clock

    async def tier_of(self, principal: Principal) -> Tier | None:
        """The caller's tier, ``None`` for an owner."""
        return (await self._rules.of(principal)).tier

    async def own(self, principal: Principal) -> tuple[Tier | None, list[Allowance]]:
        """The caller's tier, ``None`` for an owner, and what each limit leaves."""
        terms, standings = await self._meter.standings(principal)
        now_ms = int(self._clock().timestamp() * 1000)
        return terms.tier, allowances_of(terms.bounds, standings, now_ms)

    async def put(
        self, principal: Principal, kind: SubjectKind, subject_id: UUID, limits: Limits
    ) -> None:
        async with self._db.begin() as session:
            repository = LimitsRepository(session)
            await _refuse_strangers(repository, principal, kind, subject_id)
            await repository.put(kind, subject_id, limits)
        await self._rules.forget(subject_id)

    async def drop(self, principal: Principal, kind: SubjectKind, subject_id: UUID) -> None:
        """Take the own limits away; a tier's stay. None there is fine."""
        async with self._db.begin() as session:
            repository = LimitsRepository(session)
            await _refuse_strangers(repository, principal, kind, subject_id)
            await repository.drop(kind, subject_id)
        await self._rules.forget(subject_id)

    async def put_tier(self, principal: Principal, user_id: UUID, tier: Tier) -> None:
        if principal.role != "owner":
            raise OwnerOnly("Only the owner of this house gives tiers.")
        async with self._db.begin() as session:
            repository = LimitsRepository(session)
            await _refuse_strangers(repository, principal, "user", user_id)
            await repository.put_tier(user_id, tier)
        await self._rules.forget(user_id)


async def _refuse_strangers(
    repository: LimitsRepository, principal: Principal, kind: SubjectKind, subject_id: UUID
) -> None:
    """The owner may limit anybody, a user the own keys, and not what the owner allows it."""
    user_id = await repository.user_of(kind, subject_id)
    is_owner = principal.role == "owner"
    if user_id is None or not (is_owner or user_id == principal.user_id):
        raise SubjectNotFound
    if kind == "user" and not is_owner:
        raise OwnerOnly("Only the owner of this house limits accounts; limit your keys instead.")
