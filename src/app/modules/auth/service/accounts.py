"""Accounts: registering, logging in, changing the password."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.errors import Conflict, Forbidden
from app.kernel.ports import Clock
from app.modules.auth.api import InvalidCredentials, Principal, Profile
from app.modules.auth.domain import (
    Credential,
    Device,
    Grant,
    TokenPair,
    credential_as,
    login_buckets,
    network_buckets,
    normal_mail,
)
from app.modules.auth.models import UserRow
from app.modules.auth.repository import (
    EmailTaken,
    EventRepository,
    SessionRepository,
    UserRepository,
)
from app.modules.auth.service.credentials import CredentialCheck
from app.modules.auth.service.issuer import TokenIssuer
from app.modules.auth.service.recollection import Recollection


class KeyringRequired(Conflict):
    """The account has end-to-end keys: wrap them for the new password in the same request."""

    title = "Keyring required"


class PasswordWrong(Forbidden):
    """``current`` is not the password of this account."""

    title = "Password wrong"


class AccountChanged(Conflict):
    """Somebody else changed the account meanwhile."""

    title = "Account changed"


class AccountService:
    def __init__(
        self,
        db: Database,
        credentials: CredentialCheck,
        issuer: TokenIssuer,
        memory: Recollection,
        clock: Clock,
    ) -> None:
        self._db = db
        self._credentials = credentials
        self._issuer = issuer
        self._memory = memory
        self._clock = clock

    async def register(
        self, mail: str, credential: Credential, keyring: str | None, device: Device
    ) -> TokenPair:
        """Make an account and sign its device in. The address is looked up before the slow hash."""
        email = normal_mail(mail)
        with self._credentials.attempt(network_buckets(device.ip_prefix)):
            async with self._db.read() as session:
                if await UserRepository(session).by_email(email) is not None:
                    raise EmailTaken("An account with this address exists; log in instead.")
            hashed = await self._credentials.hash(credential)
            user = UserRow(
                email=email,
                role="member",
                credential_kind=credential.kind,
                credential_hash=hashed,
                kdf_salt=self._credentials.salt_for(email),
                keyring=keyring,
                version=1,
            )
            async with self._db.begin() as session:
                await UserRepository(session).add(user)
                grant = await self._issuer.open_session(session, user, device)
                self._note(session, "registered", grant, device)
        return await self._issuer.issue(grant)

    async def login(self, mail: str, credential: Credential, device: Device) -> TokenPair:
        email = normal_mail(mail)
        async with self._db.read() as session:
            users = UserRepository(session)
            seen, was_here = await users.by_email_and_place(email, device.ip_prefix)
        is_kind = seen is not None and seen.credential_kind == credential.kind
        stored = seen.credential_hash if seen is not None and is_kind else None
        buckets = login_buckets(email, device.ip_prefix, was_here=was_here)
        fresh = await self._credentials.check(credential, stored, buckets)
        if seen is None:
            raise InvalidCredentials
        async with self._db.begin() as session:
            user = await UserRepository(session).lock(seen.id)
            if user is None or user.version != seen.version:
                # The password was changed while we compared it with the old one.
                raise InvalidCredentials
            user.credential_hash = fresh or user.credential_hash
            grant = await self._issuer.open_session(session, user, device)
            self._note(session, "login", grant, device)
        await self._memory.forget(*grant.ended)
        return await self._issuer.issue(grant)

    async def salt_of(self, mail: str) -> str:
        """What a client derives its auth_key with. Registered or not, the answer costs the same."""
        email = normal_mail(mail)
        made_up = self._credentials.salt_for(email)
        async with self._db.read() as session:
            user = await UserRepository(session).by_email(email)
        return made_up if user is None else user.kdf_salt

    async def profile(self, user_id: UUID) -> UserRow:
        async with self._db.read() as session:
            user = await UserRepository(session).get(user_id)
        if user is None:
            raise InvalidCredentials
        return user

    async def profile_of(self, user_id: UUID) -> Profile:
        user = await self.profile(user_id)
        return Profile(user.id, user.email, user.role, user.created_at)

    async def change_password(
        self,
        principal: Principal,
        current: str | None,
        new: str,
        keyring: str | None,
        ip_prefix: str,
    ) -> TokenPair:
        """End every session and open a new one for this device."""
        seen = await self.profile(principal.user_id)
        if seen.keyring is not None and keyring is None:
            raise KeyringRequired("Send the keyring, wrapped for the new password.")
        await self._prove(seen, current, ip_prefix)
        hashed = await self._credentials.hash(credential_as(seen.credential_kind, new))
        async with self._db.begin() as session:
            user = await UserRepository(session).lock(seen.id)
            if user is None or user.version != seen.version:
                raise AccountChanged("The account was changed meanwhile; try again.")
            user.credential_hash = hashed
            user.keyring = keyring or user.keyring
            user.version += 1
            device = await self._same_device(session, principal, ip_prefix)
            await SessionRepository(session).revoke_all(user.id, self._clock())
            grant = await self._issuer.open_session(session, user, device)
            self._note(session, "password-changed", grant, device)
        await self._memory.forget(user.id)
        return await self._issuer.issue(grant)

    async def _same_device(
        self, session: AsyncSession, principal: Principal, ip_prefix: str
    ) -> Device:
        found = await SessionRepository(session).find(principal.credential_id, self._clock())
        return Device("" if found is None else found[0].device_name, ip_prefix)

    async def _prove(self, user: UserRow, current: str | None, ip_prefix: str) -> None:
        """The first owner has no password yet, and nothing to prove."""
        if user.credential_hash is None:
            return
        try:
            credential = credential_as(user.credential_kind, current or "")
            buckets = login_buckets(user.email, ip_prefix, was_here=True)
            await self._credentials.check(credential, user.credential_hash, buckets)
        except InvalidCredentials:
            raise PasswordWrong("The current password is wrong.") from None

    def _note(self, session: AsyncSession, kind: str, grant: Grant, device: Device) -> None:
        EventRepository(session).note(
            kind, grant.user_id, grant.session_id, device.ip_prefix, self._clock()
        )
