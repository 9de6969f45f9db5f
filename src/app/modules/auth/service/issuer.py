"""Opens sessions and makes their tokens."""

import secrets
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import uuid7
from app.kernel.ports import Clock
from app.modules.auth.domain import Claims, Device, Grant, Lifetimes, TokenPair, fingerprint
from app.modules.auth.models import RefreshTokenRow, SessionRow, UserRow
from app.modules.auth.ports import TokenSigner
from app.modules.auth.repository import RefreshTokenRepository, SessionRepository

MAX_SESSIONS = 100
REFRESH_TOKEN_BYTES = 32


class TokenIssuer:
    """A grant is written in the transaction that decides on it; its tokens are signed after."""

    def __init__(self, signer: TokenSigner, lifetimes: Lifetimes, clock: Clock) -> None:
        self._signer = signer
        self._lifetimes = lifetimes
        self._clock = clock

    def new_refresh_token(self) -> str:
        return secrets.token_urlsafe(REFRESH_TOKEN_BYTES)

    def refresh_until(self, now: datetime) -> datetime:
        return now + self._lifetimes.refresh

    async def open_session(self, session: AsyncSession, user: UserRow, device: Device) -> Grant:
        """Sign a device in. With too many of them, the one that was silent longest goes."""
        now = self._clock()
        sessions = SessionRepository(session)
        until, token = self.refresh_until(now), self.new_refresh_token()
        opened = SessionRow(
            id=uuid7(),
            user_id=user.id,
            device_name=device.name,
            last_used_at=now,
            expires_at=until,
            created_at=now,
        )
        sessions.add(opened)
        await session.flush()
        ended = await sessions.revoke_stalest(user.id, now, keep=MAX_SESSIONS)
        RefreshTokenRepository(session).add(_token_row(opened.id, token, until))
        return Grant(user.id, opened.id, user.version, token, tuple(ended))

    async def issue(self, grant: Grant) -> TokenPair:
        now = self._clock().replace(microsecond=0)
        expires_at = now + self._lifetimes.access
        claims = Claims(
            sub=grant.user_id,
            sid=grant.session_id,
            ver=grant.version,
            iat=int(now.timestamp()),
            exp=int(expires_at.timestamp()),
            jti=secrets.token_urlsafe(12),
        )
        return TokenPair(await self._signer.sign(claims), grant.refresh_token, expires_at)

    async def seal(self, token: str, parent: str) -> str:
        """Keep ``token`` readable for whoever presents ``parent`` again."""
        return await self._signer.seal(token, parent.encode())

    async def unseal(self, sealed: str, parent: str) -> str | None:
        return await self._signer.unseal(sealed, parent.encode())


def successor_row(parent: RefreshTokenRow, token: str, until: datetime) -> RefreshTokenRow:
    row = _token_row(parent.session_id, token, until)
    row.parent_id = parent.id
    return row


def _token_row(session_id: UUID, token: str, until: datetime) -> RefreshTokenRow:
    return RefreshTokenRow(
        id=uuid7(),
        session_id=session_id,
        token_hash=fingerprint(token.encode()),
        expires_at=until,
    )
