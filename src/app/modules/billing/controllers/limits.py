"""HTTP of limits and tiers."""

from uuid import UUID

from litestar import Controller, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from app.modules.auth.api import Principal
from app.modules.billing.domain.limits import SubjectKind
from app.modules.billing.schemas import (
    AccountPut,
    AccountRead,
    AllowancesRead,
    LimitsPut,
    LimitsRead,
)
from app.modules.billing.service.limits import LimitService


class LimitController(Controller):
    path = "/api/v1/billing"
    tags = ("billing",)

    @get("/limits", summary="What you may use, what is left, and when it resets")
    async def own(
        self, limits: NamedDependency[LimitService], principal: NamedDependency[Principal]
    ) -> AllowancesRead:
        return AllowancesRead.of(*await limits.own(principal))

    @put("/limits/{kind:str}/{subject_id:str}", summary="Limit a key, or an account")
    async def put_limits(
        self,
        limits: NamedDependency[LimitService],
        principal: NamedDependency[Principal],
        kind: FromPath[SubjectKind],
        subject_id: FromPath[UUID],
        data: JSONBody[LimitsPut],
    ) -> LimitsRead:
        """Replaces all of its limits. Your own keys; only the owner limits accounts."""
        wanted = data.limits()
        await limits.put(principal, kind, subject_id, wanted)
        return LimitsRead.of(kind, subject_id, wanted)

    @delete("/limits/{kind:str}/{subject_id:str}", summary="Take limits away")
    async def drop_limits(
        self,
        limits: NamedDependency[LimitService],
        principal: NamedDependency[Principal],
        kind: FromPath[SubjectKind],
        subject_id: FromPath[UUID],
    ) -> None:
        """What the tier allows still holds."""
        await limits.drop(principal, kind, subject_id)

    @put("/accounts/{user_id:str}", summary="Give an account a tier")
    async def put_tier(
        self,
        limits: NamedDependency[LimitService],
        principal: NamedDependency[Principal],
        user_id: FromPath[UUID],
        data: JSONBody[AccountPut],
    ) -> AccountRead:
        """Only the owner does."""
        await limits.put_tier(principal, user_id, data.tier)
        return AccountRead(user_id, data.tier)
