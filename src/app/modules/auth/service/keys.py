"""API keys: made, listed, revoked. The key itself is shown once and never stored."""

import secrets
from datetime import datetime
from uuid import UUID

from app.kernel.db import Database
from app.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from app.kernel.ports import Clock
from app.modules.auth.api import Principal, ScopeMissing
from app.modules.auth.domain import (
    KeyTerms,
    fingerprint,
    format_key,
    public_id_of,
    scopes_out_of_reach,
)
from app.modules.auth.models import ApiKeyRow
from app.modules.auth.repository import ApiKeyRepository, EventRepository, UserRepository
from app.modules.auth.service.recollection import Recollection

MAX_KEYS = 200
PUBLIC_BYTES, SECRET_BYTES = 8, 32


class ModelsOutOfReach(Forbidden):
    """A key that may use some models cannot make one that may use others."""

    title = "Models out of reach"


class ExpiryPassed(Invalid):
    """A key that is never valid is of no use."""

    title = "Expiry passed"


class TooManyKeys(Conflict):
    """Revoke a key before making another."""

    title = "Too many keys"


class KeyNotFound(NotFound):
    """No key with this id, or somebody else's, or revoked already."""

    title = "Key not found"


class ApiKeyService:
    def __init__(self, db: Database, memory: Recollection, clock: Clock) -> None:
        self._db = db
        self._memory = memory
        self._clock = clock

    async def create(
        self, principal: Principal, terms: KeyTerms, ip_prefix: str
    ) -> tuple[ApiKeyRow, str]:
        """Make a key. It may do no more than who makes it."""
        self._refuse_beyond(principal, terms)
        row, key = new_key(principal.user_id, terms, self._clock())
        async with self._db.begin() as session:
            await UserRepository(session).lock(principal.user_id)
            keys = ApiKeyRepository(session)
            if await keys.count_unrevoked(principal.user_id) >= MAX_KEYS:
                raise TooManyKeys(f"An account has {MAX_KEYS} keys at most; revoke one first.")
            await keys.add(row)
            EventRepository(session).note(
                "key-created", row.user_id, row.id, ip_prefix, self._clock()
            )
        return row, key

    async def list(self, user_id: UUID) -> list[ApiKeyRow]:
        async with self._db.read() as session:
            return await ApiKeyRepository(session).unrevoked(user_id)

    async def revoke(self, principal: Principal, key_id: UUID, ip_prefix: str) -> None:
        user_id, now = principal.user_id, self._clock()
        async with self._db.begin() as session:
            if not await ApiKeyRepository(session).revoke(key_id, user_id, now):
                raise KeyNotFound
            EventRepository(session).note("key-revoked", user_id, key_id, ip_prefix, now)
        await self._memory.forget(key_id)

    def _refuse_beyond(self, principal: Principal, terms: KeyTerms) -> None:
        is_owner = principal.role == "owner"
        missing = scopes_out_of_reach(terms.scopes, principal.scopes, is_owner=is_owner)
        if missing:
            raise ScopeMissing(
                f"Who lacks a scope cannot hand it on: {', '.join(missing)}.",
                required_scope=missing[0],
            )
        if principal.models is not None and not (terms.models or frozenset()) <= principal.models:
            raise ModelsOutOfReach("This key may not use all of these models itself.")
        if terms.models is None and principal.models is not None:
            raise ModelsOutOfReach("This key may not use every model itself: name some of its own.")
        if terms.expires_at is not None and terms.expires_at <= self._clock():
            raise ExpiryPassed("expires_at has passed.")


def new_key(user_id: UUID, terms: KeyTerms, now: datetime) -> tuple[ApiKeyRow, str]:
    """Make a key and the row that knows it again."""
    key = format_key(secrets.token_bytes(PUBLIC_BYTES), secrets.token_bytes(SECRET_BYTES))
    row = ApiKeyRow(
        user_id=user_id,
        public_id=public_id_of(key),
        token_hash=fingerprint(key.encode()),
        name=terms.name,
        scopes=sorted(terms.scopes),
        models=None if terms.models is None else sorted(terms.models),
        expires_at=terms.expires_at,
        created_at=now,
    )
    return row, key
