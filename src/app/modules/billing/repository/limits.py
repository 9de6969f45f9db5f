"""Statements about limits and tiers, and whose they are."""

from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import String, Uuid, and_, column, delete, or_, select, table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import uuid7
from app.kernel.ports import utc_now
from app.modules.billing.domain.limits import Limits, SubjectKind, Tier
from app.modules.billing.models import AccountRow, LimitsRow

# Auth's tables, as foreign keys know them: by their names.
_users = table("auth_users", column("id", Uuid), column("email", String))
_keys = table("auth_api_keys", column("id", Uuid), column("user_id", Uuid))


class LimitsRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def of_caller(
        self, user_id: UUID, key_id: UUID | None
    ) -> dict[tuple[SubjectKind, UUID], Limits]:
        """The own limits of a user and a key."""
        of_user = and_(LimitsRow.subject_kind == "user", LimitsRow.subject_id == user_id)
        of_key = and_(LimitsRow.subject_kind == "key", LimitsRow.subject_id == key_id)
        rows = await self._session.scalars(select(LimitsRow).where(or_(of_user, of_key)))
        return {(row.subject_kind, row.subject_id): _limits(row) for row in rows}

    async def put(self, kind: SubjectKind, subject_id: UUID, limits: Limits) -> None:
        values = msgspec.structs.asdict(limits)
        await self._upsert(LimitsRow, {"subject_kind": kind, "subject_id": subject_id}, values)

    async def drop(self, kind: SubjectKind, subject_id: UUID) -> None:
        mine = and_(LimitsRow.subject_kind == kind, LimitsRow.subject_id == subject_id)
        await self._session.execute(delete(LimitsRow).where(mine))

    async def tier(self, user_id: UUID) -> Tier | None:
        statement = select(AccountRow.tier).where(AccountRow.user_id == user_id)
        return (await self._session.scalars(statement)).one_or_none()

    async def put_tier(self, user_id: UUID, tier: Tier) -> None:
        await self._upsert(AccountRow, {"user_id": user_id}, {"tier": tier})

    async def user_of(self, kind: SubjectKind, subject_id: UUID) -> UUID | None:
        """Whose key, or which user, this is; ``None`` if there is none."""
        wanted = _keys.c.user_id if kind == "key" else _users.c.id
        given = _keys.c.id if kind == "key" else _users.c.id
        found: UUID | None = await self._session.scalar(select(wanted).where(given == subject_id))
        return found

    async def user_by_email(self, email: str) -> UUID | None:
        statement = select(_users.c.id).where(_users.c.email == email)
        found: UUID | None = await self._session.scalar(statement)
        return found

    async def _upsert(
        self, kind: type[AccountRow | LimitsRow], keys: dict[str, Any], values: dict[str, Any]
    ) -> None:
        dialect = self._session.get_bind().dialect.name
        insert = sqlite.insert(kind) if dialect == "sqlite" else postgresql.insert(kind)
        now = utc_now()
        changed = values | {"updated_at": now}
        given = {"id": uuid7(), "created_at": now} | keys | changed
        await self._session.execute(
            insert.values(given).on_conflict_do_update(index_elements=list(keys), set_=changed)
        )


def _limits(row: LimitsRow) -> Limits:
    return Limits(**{name: getattr(row, name) for name in Limits.__struct_fields__})
