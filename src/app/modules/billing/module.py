"""Billing: what was used, and what it costs.

Routes: ``GET /api/v1/usage``. Tables: ``billing_usage``. A usage row has no states: it is written
once, when its call has ended, first to the journal in ``APP_DATA/usage`` and from there to the
table, by the call's id, so that a row stored twice is one row.
"""

from pathlib import Path

from litestar.di import Provide

from app.kernel.module import Kit, Module, always
from app.kernel.settings import Settings
from app.modules.billing.adapters.journal import FileJournal
from app.modules.billing.api import Meter
from app.modules.billing.controllers import UsageController
from app.modules.billing.models import UsageRow
from app.modules.billing.service import UsageMeter


class BillingModule(Module):
    name = "billing"
    models = (UsageRow,)
    routes = (UsageController,)

    def __init__(self, _settings: Settings, kit: Kit) -> None:
        self.meter = UsageMeter(kit.db, FileJournal(Path(kit.house.data_dir) / "usage"))

    def exports(self) -> dict[type, object]:
        return {Meter: self.meter}

    def dependencies(self) -> dict[str, Provide]:
        return {"usage_meter": always(self.meter)}

    async def open(self) -> None:
        await self.meter.open()

    async def close(self) -> None:
        await self.meter.close()
