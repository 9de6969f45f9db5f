"""Every statement of auth."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, and_, delete, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Table
from app.kernel.errors import Conflict
from app.modules.auth.models import ApiKeyRow, EventRow, RefreshTokenRow, SessionRow, UserRow

T = TypeVar("T")

UNSYNCED = {"synchronize_session": False}


class EmailTaken(Conflict):
    """Somebody has an account with this address."""

    title = "Email taken"


class KeyTaken(Conflict):
    """An API key with this text, or this public id, exists."""

    title = "Key taken"


class UserRepository:
    """Whoever changes several sessions or keys of a user locks the user first, so that nobody
    waits in a circle. The lock leaves foreign keys alone (``key_share``).
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, user: UserRow) -> None:
        self._session.add(user)
        try:
            await self._session.flush()
        except IntegrityError as error:
            raise EmailTaken("An account with this address exists; log in instead.") from error

    async def get(self, user_id: UUID) -> UserRow | None:
        return await self._session.get(UserRow, user_id)

    async def lock(self, user_id: UUID) -> UserRow | None:
        """Read the newest version, and let nobody else change it in this transaction."""
        statement = select(UserRow).where(UserRow.id == user_id).with_for_update(key_share=True)
        newest = statement.execution_options(populate_existing=True)
        return await _one(self._session, newest)

    async def by_email(self, email: str) -> UserRow | None:
        return await _one(self._session, select(UserRow).where(UserRow.email == email))

    async def by_email_and_place(self, email: str, ip_prefix: str) -> tuple[UserRow | None, bool]:
        """The account, and whether it was signed in to from this network before."""
        was_here = exists().where(
            EventRow.user_id == UserRow.id,
            EventRow.ip_prefix == ip_prefix,
            EventRow.kind.in_(("registered", "login")),
        )
        found = await self._session.execute(select(UserRow, was_here).where(UserRow.email == email))
        row = found.one_or_none()
        return (None, False) if row is None else (row[0], row[1])

    async def owner(self) -> UserRow | None:
        """The first of the owners."""
        statement = select(UserRow).where(UserRow.role == "owner").order_by(UserRow.id)
        return await _one(self._session, statement.limit(1))


class SessionRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, row: SessionRow) -> None:
        self._session.add(row)

    async def live(self, user_id: UUID, now: datetime) -> list[SessionRow]:
        """Most recently used first."""
        statement = select(SessionRow).where(SessionRow.user_id == user_id, _is_live(now))
        order = SessionRow.last_used_at.desc(), SessionRow.id.desc()
        return list(await self._session.scalars(statement.order_by(*order)))

    async def find(self, session_id: UUID, now: datetime) -> tuple[SessionRow, UserRow] | None:
        """A live session and its user."""
        statement = (
            select(SessionRow, UserRow)
            .join(UserRow, UserRow.id == SessionRow.user_id)
            .where(SessionRow.id == session_id, _is_live(now))
        )
        row = (await self._session.execute(statement)).one_or_none()
        return None if row is None else (row[0], row[1])

    async def revoke(self, session_id: UUID, user_id: UUID, now: datetime) -> bool:
        """Whether there was such a session to revoke."""
        mine = and_(SessionRow.id == session_id, SessionRow.user_id == user_id, _is_live(now))
        return bool(await self._revoke(mine, now))

    async def revoke_all(
        self, user_id: UUID, now: datetime, *, besides: UUID | None = None
    ) -> list[UUID]:
        others = and_(SessionRow.user_id == user_id, _is_live(now))
        if besides is not None:
            others = and_(others, SessionRow.id != besides)
        return await self._revoke(others, now)

    async def revoke_stalest(self, user_id: UUID, now: datetime, *, keep: int) -> list[UUID]:
        """End the sessions that were not used for longest, so that ``keep`` stay."""
        stalest = [row.id for row in (await self.live(user_id, now))[keep:]]
        return await self._revoke(SessionRow.id.in_(stalest), now) if stalest else []

    async def sweep(self, before: datetime, limit: int) -> int:
        """Delete sessions, and their tokens, that ended before ``before``."""
        over = or_(SessionRow.expires_at < before, SessionRow.revoked_at < before)
        return await _delete_some(self._session, SessionRow, over, limit)

    async def _revoke(self, condition: Any, now: datetime) -> list[UUID]:
        statement = update(SessionRow).where(condition).values(revoked_at=now)
        found = statement.returning(SessionRow.id).execution_options(**UNSYNCED)
        return list(await self._session.scalars(found))


class RefreshTokenRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, row: RefreshTokenRow) -> None:
        self._session.add(row)

    async def lock(
        self, token_hash: str, now: datetime
    ) -> tuple[RefreshTokenRow, SessionRow, UserRow] | None:
        """A token of a live session. The lock is on the session: a family moves one at a time.

        The token is read after the lock is had, so that it is what the last one left.
        """
        family = (
            select(SessionRow, UserRow)
            .join(RefreshTokenRow, RefreshTokenRow.session_id == SessionRow.id)
            .join(UserRow, UserRow.id == SessionRow.user_id)
            .where(RefreshTokenRow.token_hash == token_hash, _is_live(now))
            .with_for_update(of=SessionRow, key_share=True)
        )
        row = (await self._session.execute(family)).one_or_none()
        if row is None:
            return None
        wanted = select(RefreshTokenRow).where(RefreshTokenRow.token_hash == token_hash)
        token = await _one(self._session, wanted)
        return None if token is None else (token, row[0], row[1])

    async def is_successor_used(self, token_id: UUID) -> bool:
        statement = select(RefreshTokenRow.used_at).where(RefreshTokenRow.parent_id == token_id)
        return await _one(self._session, statement) is not None

    async def forget_successor(self, parent_id: UUID) -> None:
        """Drop the sealed copy of a token that is used by now: it will not be repeated."""
        statement = update(RefreshTokenRow).where(RefreshTokenRow.id == parent_id)
        await self._session.execute(
            statement.values(successor_sealed=None).execution_options(**UNSYNCED)
        )

    async def sweep(self, before: datetime, limit: int) -> int:
        """Delete tokens that expired before ``before``; presenting one is refused either way."""
        return await _delete_some(
            self._session, RefreshTokenRow, RefreshTokenRow.expires_at < before, limit
        )


class ApiKeyRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, key: ApiKeyRow) -> None:
        self._session.add(key)
        try:
            await self._session.flush()
        except IntegrityError as error:
            raise KeyTaken from error

    async def find(self, token_hash: str, now: datetime) -> tuple[ApiKeyRow, UserRow] | None:
        """A valid key and its user."""
        return await self._valid(ApiKeyRow.token_hash == token_hash, now)

    async def find_by_id(self, key_id: UUID, now: datetime) -> tuple[ApiKeyRow, UserRow] | None:
        return await self._valid(ApiKeyRow.id == key_id, now)

    async def lock_by_public_id(self, public_id: str) -> ApiKeyRow | None:
        """A key, valid or not, that nobody else changes in this transaction."""
        statement = select(ApiKeyRow).where(ApiKeyRow.public_id == public_id)
        return await _one(self._session, statement.with_for_update(key_share=True))

    async def by_hash(self, token_hash: str) -> ApiKeyRow | None:
        """A key, valid or not."""
        return await _one(
            self._session, select(ApiKeyRow).where(ApiKeyRow.token_hash == token_hash)
        )

    async def unrevoked(self, user_id: UUID) -> list[ApiKeyRow]:
        """Newest first, expired ones too."""
        mine = and_(ApiKeyRow.user_id == user_id, ApiKeyRow.revoked_at.is_(None))
        return list(
            await self._session.scalars(select(ApiKeyRow).where(mine).order_by(ApiKeyRow.id.desc()))
        )

    async def count_unrevoked(self, user_id: UUID) -> int:
        mine = and_(ApiKeyRow.user_id == user_id, ApiKeyRow.revoked_at.is_(None))
        count = select(func.count()).select_from(ApiKeyRow).where(mine)
        return await self._session.scalar(count) or 0

    async def revoke(self, key_id: UUID, user_id: UUID, now: datetime) -> bool:
        """Whether there was such a key to revoke."""
        mine = and_(
            ApiKeyRow.id == key_id, ApiKeyRow.user_id == user_id, ApiKeyRow.revoked_at.is_(None)
        )
        statement = update(ApiKeyRow).where(mine).values(revoked_at=now)
        found = statement.returning(ApiKeyRow.id).execution_options(**UNSYNCED)
        return (await self._session.scalars(found)).one_or_none() is not None

    async def note_use(self, key_id: UUID, day: date) -> None:
        statement = update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_used_on=day)
        await self._session.execute(statement.execution_options(**UNSYNCED))

    async def _valid(self, condition: Any, now: datetime) -> tuple[ApiKeyRow, UserRow] | None:
        is_current = or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now)
        statement = (
            select(ApiKeyRow, UserRow)
            .join(UserRow, UserRow.id == ApiKeyRow.user_id)
            .where(condition, ApiKeyRow.revoked_at.is_(None), is_current)
        )
        row = (await self._session.execute(statement)).one_or_none()
        return None if row is None else (row[0], row[1])


class EventRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def note(
        self, kind: str, user_id: UUID, credential_id: UUID | None, ip_prefix: str, at: datetime
    ) -> None:
        """Write down what happened, in the transaction in which it happens."""
        self._session.add(
            EventRow(
                kind=kind,
                user_id=user_id,
                credential_id=credential_id,
                ip_prefix=ip_prefix,
                created_at=at,
            )
        )

    async def of_user(self, user_id: UUID) -> Sequence[EventRow]:
        """Oldest first."""
        statement = select(EventRow).where(EventRow.user_id == user_id).order_by(EventRow.id)
        return list(await self._session.scalars(statement))

    async def sweep(self, before: datetime, limit: int) -> int:
        return await _delete_some(self._session, EventRow, EventRow.created_at < before, limit)


async def _one(session: AsyncSession, statement: Select[tuple[T]]) -> T | None:
    return (await session.scalars(statement)).one_or_none()


def _is_live(now: datetime) -> Any:
    return and_(SessionRow.revoked_at.is_(None), SessionRow.expires_at > now)


async def _delete_some(session: AsyncSession, table: type[Table], over: Any, limit: int) -> int:
    """Delete up to ``limit`` rows, so that no sweep keeps the writer from others for long."""
    some = select(table.id).where(over).limit(limit)
    gone = delete(table).where(table.id.in_(some)).returning(table.id)
    return len((await session.scalars(gone.execution_options(**UNSYNCED))).all())
