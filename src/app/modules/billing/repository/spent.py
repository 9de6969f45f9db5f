"""Statements about what was spent."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import case, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.billing.domain.limits import subject_of
from app.modules.billing.domain.periods import DAY_MS, Spent, day_of, first_day, month_of
from app.modules.billing.domain.usage import Usage
from app.modules.billing.models import SpentRow, UsageRow
from app.modules.billing.ports import Addition

LOCK_ID = 0x1451B


class SpentRepository:
    """Sums of usage rows, which change in the transaction that stores the rows."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def take_turns(self, *, alone: bool) -> None:
        """Wait until nobody stores usage (``alone``), or until nobody begins a sum.

        A sum of rows begun while others are being stored would miss some for ever. SQLite's
        writer is alone anyway.
        """
        if self._session.get_bind().dialect.name == "postgresql":
            lock = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
            await self._session.execute(text(f"select {lock}({LOCK_ID})"))

    async def add(self, usages: Iterable[Usage]) -> list[Addition]:
        """Add what new rows cost to the sums that were begun."""
        days = _by_day(usages)
        subjects = {subject for costs in days.values() for subject in costs}
        if not subjects:
            return []
        # In one order, so that two who store at once do not wait for each other in a circle.
        wanted = select(SpentRow).where(SpentRow.subject.in_(sorted(subjects)))
        locked = wanted.order_by(SpentRow.subject).with_for_update()
        rows = {row.subject: row for row in await self._session.scalars(locked)}
        return [
            _add(rows[subject], day, nanos)
            for day, costs in sorted(days.items())
            for subject, nanos in costs.items()
            if subject in rows
        ]

    async def known(self, subjects: Sequence[str]) -> dict[str, Spent]:
        """What is spent, of those whose sum was begun."""
        rows = await self._session.scalars(
            select(SpentRow).where(SpentRow.subject.in_(sorted(subjects)))
        )
        return {row.subject: _spent(row) for row in rows}

    async def begin(self, subject: str, now_ms: int) -> Spent:
        """Add up a subject's rows. Nobody may store any meanwhile: take turns, ``alone``."""
        day = day_of(now_ms)
        month = month_of(day)
        kind, _, digits = subject.partition(":")
        column = UsageRow.credential_id if kind == "key" else UsageRow.user_id
        sums = await self._session.execute(
            select(
                func.sum(UsageRow.cost_nanos),
                _since(first_day(month) * DAY_MS),
                _since(day * DAY_MS),
            ).where(column == UUID(digits))
        )
        total, of_month, of_day = (int(nanos or 0) for nanos in sums.one())
        spent = Spent(0, total, month, of_month, day, of_day)
        self._session.add(SpentRow(subject=subject, **msgspec.structs.asdict(spent)))
        return spent


def _since(start_ms: int) -> Any:
    return func.sum(case((UsageRow.started_at_ms >= start_ms, UsageRow.cost_nanos)))


def _by_day(usages: Iterable[Usage]) -> dict[int, dict[str, int]]:
    """Cost by day and subject. Most rows are of few callers: those are added up first."""
    callers: dict[tuple[int, UUID, UUID], int] = defaultdict(int)
    for usage in usages:
        if usage.cost_nanos:
            day = day_of(usage.started_at_ms)
            callers[day, usage.credential_id, usage.user_id] += usage.cost_nanos
    days: dict[int, dict[str, int]] = {}
    for (day, credential_id, user_id), nanos in callers.items():
        costs = days.setdefault(day, defaultdict(int))
        costs[subject_of("key", credential_id)] += nanos
        costs[subject_of("user", user_id)] += nanos
    return days


def _add(row: SpentRow, day: int, nanos: int) -> Addition:
    after = _spent(row).plus(day, nanos, version=row.version + 1)
    for name, value in msgspec.structs.asdict(after).items():
        setattr(row, name, value)
    return Addition(row.subject, row.version, day, nanos)


def _spent(row: SpentRow) -> Spent:
    return Spent(**{name: getattr(row, name) for name in Spent.__struct_fields__})
