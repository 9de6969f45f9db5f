"""Finds out who is asking."""

import asyncio
import hashlib
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from app.kernel.db import Database
from app.kernel.ports import Clock, SingleFlight
from app.modules.auth.api import InvalidCredentials, Principal
from app.modules.auth.domain import KEY_PREFIX, fingerprint, is_jwt_shaped, is_well_formed_key
from app.modules.auth.models import ApiKeyRow, UserRow
from app.modules.auth.ports import TokenSigner
from app.modules.auth.repository import ApiKeyRepository, SessionRepository
from app.modules.auth.service.recollection import MAX_AGE_S, Recollection

TOKEN_LIMIT_BYTES = 4096


class TokenAuthenticator:
    """Implements ``api.Authenticator``. What it does not remember, it asks the database."""

    def __init__(
        self, db: Database, signer: TokenSigner, memory: Recollection, clock: Clock
    ) -> None:
        self._db = db
        self._signer = signer
        self._memory = memory
        self._clock = clock
        self._anonymous: Principal | None = None
        self._lookups: SingleFlight[Principal] = SingleFlight()

    def let_anybody_in_as(self, owner_id: UUID) -> None:
        """Let callers without a key, or with one that is not ours, act as the owner."""
        self._anonymous = Principal(
            user_id=owner_id,
            kind="anonymous",
            credential_id=owner_id,
            role="owner",
            scopes=frozenset({"full"}),
        )

    def recall(self, token: bytes) -> Principal | None:
        if not token:
            return self._anonymous
        return self._memory.recall(hashlib.sha256(token).digest())

    async def authenticate(self, token: bytes) -> Principal:
        if not token or len(token) > TOKEN_LIMIT_BYTES:
            return self._stranger(token)
        since = self._memory.mark()
        if not self._memory.is_current:
            return await self._look_up(token, since)
        # Who comes after a revocation does not take an answer that was asked for before it.
        flight = (hashlib.sha256(token).digest(), since)
        return await self._lookups.join(flight, lambda: self._look_up(token, since))

    async def until_revoked(self, principal: Principal) -> None:
        if principal.kind == "anonymous":
            await asyncio.Event().wait()
        with self._memory.watching(principal) as revoked:
            while await self._is_valid(principal):
                # Not wait_for: up to Python 3.11 it can lose a cancellation.
                with suppress(TimeoutError):
                    async with asyncio.timeout(MAX_AGE_S):
                        await revoked.wait()
                revoked.clear()

    async def _look_up(self, token: bytes, since: int) -> Principal:
        now = self._clock()
        found = await (self._session if is_jwt_shaped(token) else self._key)(token, now)
        if found is None:
            return self._stranger(token)
        principal, until = found
        valid_s = MAX_AGE_S if until is None else (until - now).total_seconds()
        digest = hashlib.sha256(token).digest()
        self._memory.keep(digest, principal, valid_s=valid_s, since=since)
        return principal

    def _stranger(self, token: bytes) -> Principal:
        """A key of nobody may be anonymous: some clients must send one. One of ours that is not
        valid may not: its sender believes to be somebody.
        """
        if self._anonymous is None or is_jwt_shaped(token) or token.startswith(KEY_PREFIX.encode()):
            raise InvalidCredentials
        return self._anonymous

    async def _session(
        self, token: bytes, now: datetime
    ) -> tuple[Principal, datetime | None] | None:
        claims = await self._signer.read(token)
        if claims is None or not claims.is_valid_at(now):
            return None
        async with self._db.read() as session:
            found = await SessionRepository(session).find(claims.sid, now)
        if found is None or found[1].id != claims.sub or found[1].version != claims.ver:
            return None
        principal = Principal(
            user_id=claims.sub,
            kind="session",
            credential_id=claims.sid,
            role=found[1].role,
            scopes=frozenset({"full"}),
        )
        expires_at = datetime.fromtimestamp(claims.exp, now.tzinfo)
        return principal, min(expires_at, found[0].expires_at)

    async def _key(self, token: bytes, now: datetime) -> tuple[Principal, datetime | None] | None:
        if token.startswith(KEY_PREFIX.encode()) and not is_well_formed_key(
            token.decode("latin-1")
        ):
            return None
        async with self._db.read() as session:
            found = await ApiKeyRepository(session).find(fingerprint(token), now)
        if found is None:
            return None
        await self._note_use(found[0], now)
        return _key_principal(*found), found[0].expires_at

    async def _note_use(self, key: ApiKeyRow, now: datetime) -> None:
        """A day is exact enough, and costs one write a day."""
        if key.last_used_on != now.date():
            async with self._db.begin() as session:
                await ApiKeyRepository(session).note_use(key.id, now.date())

    async def _is_valid(self, principal: Principal) -> bool:
        now = self._clock()
        async with self._db.read() as session:
            if principal.kind == "session":
                return (
                    await SessionRepository(session).find(principal.credential_id, now) is not None
                )
            return (
                await ApiKeyRepository(session).find_by_id(principal.credential_id, now) is not None
            )


def _key_principal(key: ApiKeyRow, user: UserRow) -> Principal:
    return Principal(
        user_id=user.id,
        kind="key",
        credential_id=key.id,
        role=user.role,
        scopes=frozenset(key.scopes),
        models=None if key.models is None else frozenset(key.models),
    )
