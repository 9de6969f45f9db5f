"""Every statement of routing."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import and_, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.modules.routing.domain import kind_of, public_name
from app.modules.routing.models import ModelRow, PriceRow

# Columns with a default, which the insert fills in.
MADE_BY_US = frozenset({"id", "created_at", "updated_at"})


class RegistryRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def models(self) -> list[ModelRow]:
        return list(await self._session.scalars(select(ModelRow).order_by(ModelRow.name)))

    async def prices(self) -> list[PriceRow]:
        """Oldest version first, so that the last one of a model is its price now."""
        statement = select(PriceRow).order_by(PriceRow.created_at, PriceRow.version)
        return list(await self._session.scalars(statement))

    async def stamp(self) -> tuple[int, datetime | None, int]:
        """Changes whenever the registry does, also by another process."""
        models = select(func.count(), func.max(ModelRow.updated_at)).select_from(ModelRow)
        count, changed_at = (await self._session.execute(models)).one()
        prices = await self._session.scalar(select(func.count()).select_from(PriceRow))
        return count, changed_at, prices or 0

    async def forget_all_but(self, upstreams: Collection[str]) -> None:
        """Drop bundled and discovered models of every other upstream; manual names stay."""
        found = and_(ModelRow.source != "manual", ModelRow.upstream.not_in(upstreams))
        await self._session.execute(delete(ModelRow).where(found))

    async def add_models(self, rows: Sequence[ModelRow]) -> None:
        """Add names that are not taken; a taken name stays what it is."""
        await self._add(rows)

    async def keep_discovered(self, upstream: str, ids: Sequence[str]) -> None:
        """Make the discovered models of ``upstream`` those in ``ids``; touch no other row."""
        rows = await self.models()
        mine = {row.upstream_model for row in rows if row.upstream == upstream}
        taken = {row.name for row in rows}
        for row in rows:
            is_gone = row.upstream_model not in ids
            if row.upstream == upstream and row.source == "discovered" and is_gone:
                await self._session.delete(row)
        fresh = [model for model in dict.fromkeys(ids) if model not in mine]
        await self._add(
            [
                ModelRow(
                    name=public_name(upstream, model, taken),
                    upstream=upstream,
                    upstream_model=model,
                    kind=kind_of(model),
                    source="discovered",
                )
                for model in fresh
            ]
        )

    async def put_model(self, row: ModelRow) -> None:
        """Add a name, or point a taken one somewhere else."""
        found = await self._session.scalar(select(ModelRow).where(ModelRow.name == row.name))
        if found is None:
            self._session.add(row)
            return
        found.upstream, found.upstream_model = row.upstream, row.upstream_model
        found.kind, found.source = row.kind, row.source

    async def add_prices(self, rows: Sequence[PriceRow]) -> None:
        """Add versions that are not there yet."""
        await self._add(rows)

    async def _add(self, rows: Sequence[ModelRow] | Sequence[PriceRow]) -> None:
        """Insert what is not there yet; another process may be adding the same at this moment."""
        if not rows:
            return
        dialect = self._session.get_bind().dialect.name
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        table = type(rows[0]).__table__
        names = [column.key for column in table.columns if column.key not in MADE_BY_US]
        values = [{name: getattr(row, name) for name in names} for row in rows]
        await self._session.execute(insert(type(rows[0])).on_conflict_do_nothing(), values)
