"""The first start: an owner, and a key to come in with."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.ports import Clock
from app.kernel.settings import SettingsError
from app.modules.auth.domain import UNKNOWN_NETWORK, KeyTerms, fingerprint
from app.modules.auth.models import ApiKeyRow, UserRow
from app.modules.auth.repository import (
    ApiKeyRepository,
    EmailTaken,
    EventRepository,
    KeyTaken,
    UserRepository,
)
from app.modules.auth.service.credentials import CredentialCheck
from app.modules.auth.service.keys import new_key
from app.modules.auth.service.recollection import Recollection

OWNER_EMAIL = "owner@localhost"
BOOTSTRAP_ID = "bootstrap"
EVERYTHING = frozenset({"full"})


class OwnerService:
    def __init__(
        self, db: Database, credentials: CredentialCheck, memory: Recollection, clock: Clock
    ) -> None:
        self._db = db
        self._credentials = credentials
        self._memory = memory
        self._clock = clock

    async def settle(self, bootstrap: str | None) -> tuple[UserRow, str | None]:
        """Make sure that there is an owner, and that ``bootstrap`` is a key of theirs, or none is.

        Returns the owner and the key to announce. Of several processes that start at once, one
        makes the owner and has the key; if it dies before it tells, ``owner-key`` makes another.
        """
        try:
            return await self._settle(bootstrap)
        except (EmailTaken, KeyTaken):
            # Another process was quicker; what it wrote is there now.
            return await self._settle(bootstrap)

    async def another_key(self, bootstrap: str | None, name: str) -> str:
        """Make one more key, for an owner who lost theirs and can reach the database."""
        owner, first = await self.settle(bootstrap)
        if first is not None:
            return first
        async with self._db.begin() as session:
            return await self._add_key(session, owner, name)

    async def _settle(self, bootstrap: str | None) -> tuple[UserRow, str | None]:
        async with self._db.begin() as session:
            found = await UserRepository(session).owner()
            owner = found or await self._add_owner(session)
            changed = await self._use(session, owner, bootstrap)
            key = None
            if found is None and bootstrap is None:
                key = await self._add_key(session, owner, "first key")
        if changed is not None:
            await self._memory.forget(changed)
        return owner, key

    async def _add_owner(self, session: AsyncSession) -> UserRow:
        owner = UserRow(
            email=OWNER_EMAIL,
            role="owner",
            credential_kind="password",
            kdf_salt=self._credentials.salt_for(OWNER_EMAIL),
            version=1,
        )
        await UserRepository(session).add(owner)
        self._note(session, "owner-created", owner, None)
        return owner

    async def _use(
        self, session: AsyncSession, owner: UserRow, bootstrap: str | None
    ) -> UUID | None:
        """Bring the one row of the bootstrap key in line. Returns its id if it was another key."""
        keys = ApiKeyRepository(session)
        row = await keys.lock_by_public_id(BOOTSTRAP_ID)
        if bootstrap is None:
            return self._withdraw(session, owner, row)
        digest = fingerprint(bootstrap.encode())
        if row is not None and row.token_hash == digest:
            if row.revoked_at is not None:
                raise SettingsError("APP_BOOTSTRAP_KEY was revoked: choose another, or unset it.")
            row.expires_at = None
            return None
        if await keys.by_hash(digest) is not None:
            raise SettingsError("APP_BOOTSTRAP_KEY is an API key already: choose another.")
        if row is None:
            await keys.add(_bootstrap_row(owner, digest))
            return None
        row.token_hash, row.expires_at, row.revoked_at = digest, None, None
        self._note(session, "bootstrap-key-changed", owner, row.id)
        return row.id

    def _withdraw(
        self, session: AsyncSession, owner: UserRow, row: ApiKeyRow | None
    ) -> UUID | None:
        """The variable is gone, so its key is too, until the variable comes back."""
        if row is None or row.expires_at is not None:
            return None
        row.expires_at = self._clock()
        self._note(session, "bootstrap-key-withdrawn", owner, row.id)
        return row.id

    async def _add_key(self, session: AsyncSession, owner: UserRow, name: str) -> str:
        row, key = new_key(owner.id, KeyTerms(name, EVERYTHING, None, None), self._clock())
        await ApiKeyRepository(session).add(row)
        self._note(session, "key-created", owner, row.id)
        return key

    def _note(self, session: AsyncSession, kind: str, owner: UserRow, key_id: UUID | None) -> None:
        EventRepository(session).note(kind, owner.id, key_id, UNKNOWN_NETWORK, self._clock())


def _bootstrap_row(owner: UserRow, digest: str) -> ApiKeyRow:
    return ApiKeyRow(
        user_id=owner.id,
        public_id=BOOTSTRAP_ID,
        token_hash=digest,
        name="APP_BOOTSTRAP_KEY",
        scopes=sorted(EVERYTHING),
    )
