"""Sessions: refreshing, listing, revoking."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.errors import NotFound
from app.kernel.ports import Clock
from app.modules.auth.api import InvalidCredentials, Principal
from app.modules.auth.domain import Grant, RefreshStep, TokenPair, fingerprint, refresh_step
from app.modules.auth.models import RefreshTokenRow, SessionRow
from app.modules.auth.repository import (
    EventRepository,
    RefreshTokenRepository,
    SessionRepository,
    UserRepository,
)
from app.modules.auth.service.issuer import TokenIssuer, successor_row
from app.modules.auth.service.recollection import Recollection


class RefreshReused(InvalidCredentials):
    """A used refresh token came back: somebody holds a copy, so the session has ended."""

    title = "Refresh token reused"


class SessionNotFound(NotFound):
    """No live session with this id, or somebody else's."""

    title = "Session not found"


class SessionService:
    def __init__(
        self, db: Database, issuer: TokenIssuer, memory: Recollection, clock: Clock
    ) -> None:
        self._db = db
        self._issuer = issuer
        self._memory = memory
        self._clock = clock

    async def refresh(self, token: str, ip_prefix: str) -> TokenPair:
        """Rotate. Parallel calls and a call whose answer was lost get the same successor."""
        fresh = self._issuer.new_refresh_token()
        sealed = await self._issuer.seal(fresh, token)
        now = self._clock()
        async with self._db.begin() as session:
            tokens = RefreshTokenRepository(session)
            found = await tokens.lock(fingerprint(token.encode()), now)
            if found is None:
                raise InvalidCredentials
            row, opened, user = found
            is_used = await tokens.is_successor_used(row.id)
            step = refresh_step(now, row.expires_at, row.used_at, is_successor_used=is_used)
            if step is RefreshStep.ROTATE:
                await self._rotate(session, row, opened, fresh)
                row.successor_sealed = sealed
            elif step is RefreshStep.REVOKE:
                opened.revoked_at = now
                EventRepository(session).note("refresh-reused", user.id, opened.id, ip_prefix, now)
        if step is RefreshStep.REVOKE:
            await self._memory.forget(opened.id)
            raise RefreshReused("This session has ended; log in again.")
        if step is RefreshStep.REPEAT:
            fresh = await self._issuer.unseal(row.successor_sealed or "", token) or ""
        if step is RefreshStep.REFUSE or not fresh:
            raise InvalidCredentials
        return await self._issuer.issue(Grant(user.id, opened.id, user.version, fresh))

    async def list(self, user_id: UUID) -> list[SessionRow]:
        async with self._db.read() as session:
            return await SessionRepository(session).live(user_id, self._clock())

    async def revoke(self, principal: Principal, session_id: UUID, ip_prefix: str) -> None:
        user_id, now = principal.user_id, self._clock()
        async with self._db.begin() as session:
            if not await SessionRepository(session).revoke(session_id, user_id, now):
                raise SessionNotFound
            EventRepository(session).note("session-revoked", user_id, session_id, ip_prefix, now)
        await self._memory.forget(session_id)

    async def revoke_others(self, principal: Principal, ip_prefix: str) -> None:
        """End every session but the one that asks. A key is no session: it ends them all."""
        user_id, own, now = principal.user_id, principal.credential_id, self._clock()
        async with self._db.begin() as session:
            await UserRepository(session).lock(user_id)
            ended = await SessionRepository(session).revoke_all(user_id, now, besides=own)
            for session_id in ended:
                events = EventRepository(session)
                events.note("session-revoked", user_id, session_id, ip_prefix, now)
        await self._memory.forget(*ended)

    async def _rotate(
        self, session: AsyncSession, row: RefreshTokenRow, opened: SessionRow, fresh: str
    ) -> None:
        now = self._clock()
        until = self._issuer.refresh_until(now)
        row.used_at = opened.last_used_at = now
        opened.expires_at = until
        tokens = RefreshTokenRepository(session)
        tokens.add(successor_row(row, fresh, until))
        if row.parent_id is not None:
            await tokens.forget_successor(row.parent_id)
