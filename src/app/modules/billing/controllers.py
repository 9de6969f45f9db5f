"""HTTP of billing."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from app.kernel.db import Page
from app.modules.auth.api import Principal
from app.modules.billing.schemas import UsageRead
from app.modules.billing.service import UsageMeter

MAX_PAGE = 500


class UsageController(Controller):
    path = "/api/v1/usage"
    tags = ("billing",)

    @get(summary="Your model calls, newest first")
    async def list(
        self,
        usage_meter: NamedDependency[UsageMeter],
        principal: NamedDependency[Principal],
        cursor: FromQuery[UUID | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 50,
    ) -> Page[UsageRead]:
        rows = await usage_meter.list(principal.user_id, cursor, limit)
        following = str(rows[-1].id) if len(rows) == limit else None
        return Page([UsageRead.of(row) for row in rows], following)
