"""Statements that add usage rows up."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import and_, case, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.billing.domain.periods import DAY_MS, EPOCH
from app.modules.billing.domain.reports import Grouping, UsageFilter, UsageSum
from app.modules.billing.models import UsageRow
from app.modules.billing.repository.usage import conditions

TOKENS = (
    UsageRow.input_tokens,
    UsageRow.output_tokens,
    UsageRow.cached_tokens,
    UsageRow.cache_write_tokens,
    UsageRow.reasoning_tokens,
    UsageRow.audio_input_tokens,
    UsageRow.audio_output_tokens,
)


class SumRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def page(
        self, wanted: UsageFilter, by: Grouping, after: str | None, limit: int
    ) -> list[UsageSum]:
        """Sums after the group ``after``: days newest first, models and keys in their order."""
        group = _group(by)
        where = [*conditions(wanted), *_behind(by, after)]
        statement = select(
            group, func.count(), *(func.sum(tokens) for tokens in TOKENS), func.sum(_unpriced())
        )
        order = group.desc() if by == "day" else group
        rows = await self._session.execute(
            statement.where(*where).group_by(group).order_by(order).limit(limit)
        )
        found = [tuple(row) for row in rows]
        costs = await self._costs(wanted, group, [row[0] for row in found])
        return [_sum(_name(by, key), values, costs[key]) for key, *values in found]

    async def _costs(
        self, wanted: UsageFilter, group: Any, keys: Sequence[Any]
    ) -> dict[Any, dict[str, int]]:
        """Cost by currency of each of these groups."""
        statement = select(group, UsageRow.currency, func.sum(UsageRow.cost_nanos)).where(
            *conditions(wanted), group.in_(keys), UsageRow.cost_nanos.is_not(None)
        )
        costs: dict[Any, dict[str, int]] = defaultdict(dict)
        for key, currency, nanos in await self._session.execute(
            statement.group_by(group, UsageRow.currency)
        ):
            costs[key][currency or ""] = int(nanos)
        return costs


def _sum(name: str, values: Sequence[Any], costs: dict[str, int]) -> UsageSum:
    """``values`` in the order of the fields between these two; PostgreSQL adds up decimals."""
    fields = UsageSum.__struct_fields__[1:-1]
    numbers = {field: int(value or 0) for field, value in zip(fields, values, strict=True)}
    return UsageSum(group=name, costs_nanos=costs, **numbers)


def _group(by: Grouping) -> Any:
    if by == "model":
        return UsageRow.model
    if by == "key":
        return UsageRow.credential_id
    # In the text of the statement: PostgreSQL takes two parameters for two expressions.
    return UsageRow.started_at_ms // literal(DAY_MS, literal_execute=True)


def _behind(by: Grouping, after: str | None) -> list[Any]:
    """The condition of the next page. A day is compared by its first moment, for the index."""
    if after is None:
        return []
    if by == "model":
        return [UsageRow.model > after]
    if by == "key":
        return [UsageRow.credential_id > UUID(after)]
    day = date.fromisoformat(after).toordinal() - EPOCH
    return [UsageRow.started_at_ms < day * DAY_MS]


def _name(by: Grouping, key: Any) -> str:
    return date.fromordinal(EPOCH + key).isoformat() if by == "day" else str(key)


def _unpriced() -> Any:
    has_tokens = or_(UsageRow.input_tokens > 0, UsageRow.output_tokens > 0)
    return case((and_(UsageRow.cost_nanos.is_(None), has_tokens), 1), else_=0)
