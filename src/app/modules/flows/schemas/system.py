"""The server itself on the wire, in both vocabularies that its clients read."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from app.modules.auth.api import Profile
from app.modules.billing.api import Allowance, Tier
from app.modules.flows.domain.views import Tally

# Of a budget that nothing limits: the largest whole number that JSON's readers hold exactly.
UNLIMITED = (1 << 53) - 1
NANOS_A_CREDIT = 1_000_000
PLANS: dict[str | None, str] = {"free": "free", "pro": "starter", "power": "professional"}


class HealthRead(msgspec.Struct, frozen=True):
    """A sign of life. ``uptime`` is in seconds."""

    version: str
    timestamp: datetime
    uptime: float
    status: Literal["healthy"] = "healthy"
    message: str = "Flows are served."
    startup_complete: bool = True


class DetailedHealthRead(msgspec.Struct, frozen=True):
    """A sign of life, and what it rests on."""

    timestamp: datetime
    database: Literal["connected", "unreachable"]
    mode: Literal["embedded", "cluster"]
    status: Literal["healthy", "unhealthy"]


class MetricsRead(msgspec.Struct, frozen=True):
    """The caller's executions in numbers, under the names of both clients. Times are seconds."""

    timestamp: datetime
    total_executions: int
    successful_executions: int
    failed_executions: int
    cancelled_executions: int
    running_executions: int
    average_execution_time: float
    total_execution_time: float
    last_execution: datetime | None
    executions_total: int
    executions_active: int
    flows_total: int
    agents_total: int

    @classmethod
    def of(cls, tally: Tally, now: datetime, flows: int, agents: int) -> "MetricsRead":
        counts = tally.counts
        total = sum(counts.values())
        active = counts["pending"] + counts["running"]
        ended = counts["completed"] + counts["failed"]
        return cls(
            timestamp=now,
            total_executions=total,
            successful_executions=counts["completed"],
            failed_executions=counts["failed"],
            cancelled_executions=counts["cancelled"],
            running_executions=active,
            average_execution_time=tally.total_s / ended if ended else 0.0,
            total_execution_time=tally.total_s,
            last_execution=tally.last_at,
            executions_total=total,
            executions_active=active,
            flows_total=flows,
            agents_total=agents,
        )


class Components(msgspec.Struct, frozen=True):
    """The parts that clients ask for by name; all of them are this one process."""

    registry: Literal["operational"] = "operational"
    communication: Literal["operational"] = "operational"
    memory: Literal["operational"] = "operational"
    orchestrator: Literal["operational"] = "operational"


class StatusRead(msgspec.Struct, frozen=True):
    """What is at work, and how much of the caller's there is."""

    agents: dict[str, int]
    flows: dict[str, int]
    status: Literal["operational"] = "operational"
    components: Components = Components()


class UserRead(msgspec.Struct, frozen=True):
    """The caller. ``credits`` are thousandths of the currency that is left to spend;
    ``rate_limit`` is requests a minute, and ``null`` where nothing limits.
    """

    id: UUID
    email: str
    name: str
    plan: str
    credits: int
    rate_limit: int | None
    created_at: datetime
    organization: None = None

    @classmethod
    def of(cls, profile: Profile, tier: Tier | None, allowances: list[Allowance]) -> "UserRead":
        budgets = [one.left // NANOS_A_CREDIT for one in allowances if one.name == "budget"]
        rates = [one.limit for one in allowances if one.name == "rpm"]
        return cls(
            id=profile.user_id,
            email=profile.email,
            name=profile.email.partition("@")[0],
            plan=PLANS.get(tier, "enterprise"),
            credits=min(budgets, default=UNLIMITED),
            rate_limit=min(rates, default=None),
            created_at=profile.created_at,
        )
