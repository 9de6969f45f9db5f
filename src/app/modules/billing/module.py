"""Billing: what may be used, what was used, and what it costs.

Routes: ``GET /api/v1/usage``; ``/api/v1/billing`` with ``limits``, ``limits/{kind}/{id}`` and
``accounts/{user_id}``. Tables: ``billing_accounts``, ``billing_limits``, ``billing_spent``,
``billing_usage``.

States. A call's claim is held, then ended by its usage row or its release, or, when no live process
vouches for it, by the end of its lease. A usage row has no states: it is written once, when its
call has ended, first to the journal in ``APP_DATA/usage`` and from there to the table, by the
call's id, so that a row stored twice is one row. Money is held by the claim, owed by the row in
the journal, and spent by the row in the table, one after the other. A sum in ``billing_spent``
begins with a subject's first budget, and only grows.
"""

import argparse
from datetime import UTC, date, datetime
from pathlib import Path
from typing import get_args
from uuid import UUID

from litestar.di import Provide

from app.kernel.module import Command, Kit, Module, known
from app.kernel.settings import Settings
from app.modules.billing.adapters import open_holds
from app.modules.billing.adapters.journal import FileJournal
from app.modules.billing.adapters.memory import MemoryHolds
from app.modules.billing.api import Meter, Tiers
from app.modules.billing.controllers.limits import LimitController
from app.modules.billing.controllers.usage import UsageController
from app.modules.billing.domain.reports import Grouping, UsageFilter, UsageSum, aligned, money
from app.modules.billing.models import AccountRow, LimitsRow, SpentRow, UsageRow
from app.modules.billing.schemas import SUM_HEAD, sum_lines
from app.modules.billing.service.limits import LimitService
from app.modules.billing.service.meter import UsageMeter
from app.modules.billing.service.reports import UsageReports
from app.modules.billing.service.rules import Rules
from app.modules.billing.service.store import UsageStore

EVERYBODY = "all"
TABLE_HEAD = ("", "calls", "input", "output", "cached", "reasoning", "unpriced", "cost")


class BillingModule(Module):
    name = "billing"
    models = (AccountRow, LimitsRow, SpentRow, UsageRow)
    routes = (LimitController, UsageController)

    def __init__(self, _settings: Settings, kit: Kit) -> None:
        holds = open_holds(kit.house.redis_url)
        journal = FileJournal(Path(kit.house.data_dir) / "usage")
        store = UsageStore(kit.db, journal, holds, kit.clock)
        rules = Rules(kit.db, kit.cache)
        near = holds if isinstance(holds, MemoryHolds) else None
        self._holds = holds
        self.meter = UsageMeter(store, rules, holds, near)
        self.limits = LimitService(kit.db, rules, self.meter, kit.clock)
        self.reports = UsageReports(kit.db, store)

    def exports(self) -> dict[type, object]:
        return {Meter: self.meter, Tiers: self.limits}

    def dependencies(self) -> dict[str, Provide]:
        return {"limits": known(self.limits), "usage_reports": known(self.reports)}

    def commands(self) -> tuple[Command, ...]:
        return (Command("usage", "what was used, and what it cost", _arguments, self._report),)

    async def open(self) -> None:
        await self.meter.open()

    async def close(self) -> None:
        await self.meter.close()
        await self._holds.close()

    async def _report(self, options: argparse.Namespace) -> str:
        try:
            user_id = await self._user(options.user)
            wanted = UsageFilter(user_id=user_id, from_ms=options.since)
            pages = self.reports.every_sum(wanted, options.by)
            sums = [one async for page in pages for one in page]
        finally:
            await self._holds.close()
        if options.csv:
            return (SUM_HEAD + sum_lines(sums)).rstrip()
        return aligned((options.by, *TABLE_HEAD[1:]), [_cells(one) for one in sums])

    async def _user(self, email: str) -> UUID | None:
        return None if email == EVERYBODY else await self.reports.user_by_email(email)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=get_args(Grouping), default="day")
    parser.add_argument("--since", type=_day_ms, metavar="DATE", help="from this day on, UTC")
    parser.add_argument("--user", default=EVERYBODY, metavar="EMAIL", help="one account's alone")
    parser.add_argument("--csv", action="store_true", help="as a sheet")


def _day_ms(text: str) -> int:
    day = date.fromisoformat(text)
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _cells(one: UsageSum) -> tuple[str, ...]:
    numbers = (
        one.calls,
        one.input_tokens,
        one.output_tokens,
        one.cached_tokens,
        one.reasoning_tokens,
        one.unpriced_calls,
    )
    return (one.group, *map(str, numbers), money(one.costs_nanos))
