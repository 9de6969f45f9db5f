"""Reports: calls one by one, and what they add up to."""

import builtins
import unicodedata
from collections.abc import AsyncIterator
from uuid import UUID

from app.kernel.db import Database
from app.kernel.errors import NotFound
from app.modules.billing.domain.reports import Grouping, UsageFilter, UsageSum
from app.modules.billing.models import UsageRow
from app.modules.billing.repository.limits import LimitsRepository
from app.modules.billing.repository.sums import SumRepository
from app.modules.billing.repository.usage import UsageRepository
from app.modules.billing.service.store import UsageStore

SHEET_ROWS = 500


class NobodyThere(NotFound):
    """No account has this address."""

    title = "Nobody there"


class UsageReports:
    """What this process has just settled is in every report."""

    def __init__(self, db: Database, store: UsageStore, *, sheet_rows: int = SHEET_ROWS) -> None:
        self._db = db
        self._store = store
        self._sheet_rows = sheet_rows

    async def list(
        self, wanted: UsageFilter, before: UUID | None, limit: int
    ) -> builtins.list[UsageRow]:
        """Newest first, from before a call on."""
        await self._store.flush()
        async with self._db.read() as session:
            return await UsageRepository(session).page(wanted, before, limit)

    async def sums(
        self, wanted: UsageFilter, by: Grouping, after: str | None, limit: int
    ) -> builtins.list[UsageSum]:
        """Days newest first, models and keys in their order, from after a group on."""
        await self._store.flush()
        async with self._db.read() as session:
            return await SumRepository(session).page(wanted, by, after, limit)

    async def every_row(self, wanted: UsageFilter) -> AsyncIterator[builtins.list[UsageRow]]:
        """All pages; no transaction is open between them."""
        before = None
        while rows := await self.list(wanted, before, self._sheet_rows):
            yield rows
            before = rows[-1].id

    async def every_sum(
        self, wanted: UsageFilter, by: Grouping
    ) -> AsyncIterator[builtins.list[UsageSum]]:
        """All pages; no transaction is open between them."""
        after = None
        while sums := await self.sums(wanted, by, after, self._sheet_rows):
            yield sums
            after = sums[-1].group

    async def user_by_email(self, email: str) -> UUID:
        async with self._db.read() as session:
            found = await LimitsRepository(session).user_by_email(_normal(email))
        if found is None:
            raise NobodyThere(f"No account has the address {email!r}.")
        return found


def _normal(mail: str) -> str:
    """An address as auth keeps it: case-folded, NFC."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", mail).casefold())
