"""Accounts: registering, logging in, changing the password."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from app.adapters.cache.memory import MemoryCache
from app.kernel.keys import Keyring
from app.modules.auth.adapters import open_signer
from app.modules.auth.api import InvalidCredentials
from app.modules.auth.domain import (
    Device,
    Lifetimes,
    MailRefused,
    PasswordRefused,
    credential_of,
)
from app.modules.auth.models import RefreshTokenRow, SessionRow, UserRow
from app.modules.auth.repository import EmailTaken
from app.modules.auth.service.accounts import (
    AccountChanged,
    AccountService,
    KeyringRequired,
    PasswordWrong,
)
from app.modules.auth.service.credentials import CredentialCheck
from app.modules.auth.service.issuer import MAX_SESSIONS, TokenIssuer
from app.modules.auth.service.owner import OWNER_EMAIL
from app.modules.auth.service.recollection import Recollection
from app.modules.auth.service.strikes import StrikeBook, TooManyAttempts
from tests.modules.auth.people import (
    ANNA,
    BOOTSTRAP,
    LAPTOP,
    NOWHERE,
    OTHER,
    PASSWORD,
    PHONE,
    SECRET,
    FakeHasher,
    count,
    events,
    make_kit,
    opened,
    register,
    who,
)
from tests.waiting import until

AUTH_KEY = credential_of(None, "A" * 43)
KEYRING = "d3JhcHBlZA=="


class TestRegister:
    async def test_signs_the_device_in(self, auth, clock, sqlite):
        pair = await register(auth)

        principal = await who(auth, pair)
        assert (principal.kind, principal.role, principal.scopes) == ("session", "member", {"full"})
        assert pair.expires_at == clock.now + timedelta(minutes=10)
        assert await events(sqlite) == ["owner-created", "registered"]

    async def test_stores_the_address_in_its_normal_form(self, auth):
        principal = await who(auth, await register(auth, "Anna@Example.ORG"))

        assert (await auth.accounts.profile(principal.user_id)).email == ANNA

    async def test_a_taken_address_is_a_conflict_however_it_is_written(self, auth):
        await register(auth)

        with pytest.raises(EmailTaken):
            await register(auth, "ANNA@example.org", OTHER)

    async def test_of_two_at_once_one_has_the_address(self, auth, sqlite):
        outcomes = await asyncio.gather(register(auth), register(auth), return_exceptions=True)

        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["EmailTaken", "TokenPair"]
        assert await count(sqlite, UserRow, UserRow.email == ANNA) == 1

    async def test_nobody_becomes_the_owner_by_address(self, auth):
        with pytest.raises(EmailTaken):
            await register(auth, OWNER_EMAIL)

    async def test_no_address_no_account(self, auth):
        with pytest.raises(MailRefused):
            await register(auth, "anna")

    async def test_no_secret_is_stored_as_it_came(self, auth, sqlite):
        pair = await register(auth)

        async with sqlite.read() as session:
            rows = [
                *await session.scalars(select(UserRow)),
                *await session.scalars(select(RefreshTokenRow)),
            ]
        text = repr([vars(row) for row in rows])
        assert PASSWORD.secret.decode() not in text
        assert pair.refresh_token not in text


class TestLogin:
    async def test_opens_another_session(self, auth):
        first = await who(auth, await register(auth))

        second = await who(auth, await auth.accounts.login(ANNA, PASSWORD, PHONE))

        assert second.user_id == first.user_id
        assert second.credential_id != first.credential_id

    @pytest.mark.parametrize(
        ("mail", "credential"),
        [
            (ANNA, OTHER),
            ("nobody@example.org", PASSWORD),
            (ANNA, AUTH_KEY),
            (OWNER_EMAIL, PASSWORD),
        ],
    )
    async def test_says_the_same_of_every_wrong_attempt(self, auth, mail, credential):
        await register(auth)

        with pytest.raises(InvalidCredentials) as refused:
            await auth.accounts.login(mail, credential, PHONE)

        assert (str(refused.value), refused.value.extra) == ("Invalid credentials", {})

    async def test_an_auth_key_is_not_a_password_of_the_same_bytes(self, auth):
        await register(auth, ANNA, AUTH_KEY)

        with pytest.raises(InvalidCredentials):
            await auth.accounts.login(ANNA, credential_of("\x00" * 32, None), PHONE)

    async def test_raised_parameters_rewrite_the_hash(self, auth, sqlite, cache, clock, keys):
        await register(auth)
        kit = make_kit(sqlite, cache, keys, clock)

        async with opened(kit, AUTH_ARGON_ITERATIONS="3") as costlier:
            await costlier.accounts.login(ANNA, PASSWORD, PHONE)

        async with sqlite.read() as session:
            user = await session.scalar(select(UserRow).where(UserRow.email == ANNA))
        assert ",t=3," in user.credential_hash
        assert await auth.accounts.login(ANNA, PASSWORD, PHONE)

    async def test_a_rotated_secret_keeps_passwords_sessions_and_salts(self, auth, sqlite, clock):
        pair = await register(auth)
        salts = [await auth.accounts.salt_of(mail) for mail in (ANNA, "nobody@example.org")]
        rotated = Keyring(["a new master secret, 0123456789abcdef", SECRET])

        async with opened(make_kit(sqlite, MemoryCache(), rotated, clock)) as after:
            assert await who(after, pair)
            assert await after.sessions.refresh(pair.refresh_token, NOWHERE)
            assert await after.accounts.login(ANNA, PASSWORD, PHONE)
            assert salts == [
                await after.accounts.salt_of(mail) for mail in (ANNA, "nobody@example.org")
            ]

    async def test_guessing_becomes_slow(self, auth):
        await register(auth)

        async def guess() -> type:
            try:
                await auth.accounts.login(ANNA, OTHER, PHONE)
            except (InvalidCredentials, TooManyAttempts) as error:
                return type(error)

        outcomes = [await guess() for _ in range(7)]

        assert outcomes == [InvalidCredentials] * 5 + [TooManyAttempts] * 2

    async def test_parallel_guesses_count_as_well(self, auth):
        await register(auth)

        outcomes = await asyncio.gather(
            *(auth.accounts.login(ANNA, OTHER, PHONE) for _ in range(20)), return_exceptions=True
        )

        assert sum(type(outcome) is InvalidCredentials for outcome in outcomes) == 5

    async def test_an_unknown_address_becomes_slow_just_as_fast(self, auth):
        outcomes = await asyncio.gather(
            *(auth.accounts.login(ANNA, OTHER, PHONE) for _ in range(20)), return_exceptions=True
        )

        assert sum(type(outcome) is InvalidCredentials for outcome in outcomes) == 5

    async def test_who_was_here_before_is_not_slowed_down_by_strangers(self, auth):
        home, elsewhere = Device("", "93.184.216.0/24"), Device("", "8.8.8.0/24")
        await auth.accounts.register(ANNA, PASSWORD, None, home)
        for _ in range(5):
            with pytest.raises(InvalidCredentials):
                await auth.accounts.login(ANNA, OTHER, elsewhere)

        with pytest.raises(TooManyAttempts):
            await auth.accounts.login(ANNA, PASSWORD, elsewhere)
        assert await auth.accounts.login(ANNA, PASSWORD, home)

    async def test_one_network_guessing_at_many_accounts_becomes_slow(self, auth):
        device = Device("", "8.8.8.0/24")
        for number in range(30):
            with pytest.raises(InvalidCredentials):
                await auth.accounts.login(f"{number}@example.org", OTHER, device)

        with pytest.raises(TooManyAttempts):
            await auth.accounts.login("another@example.org", OTHER, device)

    async def test_right_passwords_never_become_slow(self, auth):
        await register(auth)

        for _ in range(12):
            assert await auth.accounts.login(ANNA, PASSWORD, PHONE)

    async def test_a_crowd_gets_in_or_is_told_when_to_come_back(self, auth):
        await register(auth)

        outcomes = await asyncio.gather(
            *(auth.accounts.login(f"{n}@example.org", OTHER, PHONE) for n in range(200)),
            return_exceptions=True,
        )

        kinds = {type(outcome).__name__ for outcome in outcomes}
        assert kinds == {"InvalidCredentials", "HashingBusy"}
        assert await auth.accounts.login(ANNA, PASSWORD, PHONE)

    async def test_too_many_devices_sign_out_the_one_that_was_silent_longest(
        self, auth, sqlite, clock
    ):
        first = await register(auth)
        user_id = (await who(auth, first)).user_id
        clock.advance(1)
        async with sqlite.begin() as session:
            session.add_all(
                SessionRow(
                    user_id=user_id,
                    device_name="",
                    last_used_at=clock.now,
                    expires_at=clock.now + timedelta(days=1),
                )
                for _ in range(MAX_SESSIONS - 1)
            )

        await auth.accounts.login(ANNA, PASSWORD, PHONE)

        with pytest.raises(InvalidCredentials):
            await who(auth, first)
        assert len(await auth.sessions.list(user_id)) == MAX_SESSIONS

    async def test_a_password_changed_meanwhile_is_not_let_in_by_the_old_one(
        self, auth, sqlite, keys, clock
    ):
        hasher = FakeHasher()
        lifetimes = Lifetimes(timedelta(minutes=10), timedelta(days=30))
        accounts = AccountService(
            sqlite,
            CredentialCheck(hasher, StrikeBook(), b""),
            TokenIssuer(open_signer(keys), lifetimes, clock),
            Recollection(MemoryCache()),
            clock,
        )
        await accounts.register(ANNA, PASSWORD, None, LAPTOP)
        hasher.may_go_on.clear()
        login = asyncio.create_task(accounts.login(ANNA, PASSWORD, PHONE))
        await until(lambda: hasher.is_waiting)
        async with sqlite.begin() as session:
            await session.execute(update(UserRow).where(UserRow.email == ANNA).values(version=2))

        hasher.may_go_on.set()

        with pytest.raises(InvalidCredentials):
            await login


class TestPrelogin:
    async def test_known_and_unknown_addresses_have_a_salt_each_for_ever(self, auth):
        before = await auth.accounts.salt_of(ANNA)
        await register(auth, ANNA, AUTH_KEY)

        assert await auth.accounts.salt_of("ANNA@example.org") == before
        assert await auth.accounts.salt_of("nobody@example.org") != before


class TestChangePassword:
    async def change(self, auth, principal, current="correct horse battery", keyring=None):
        return await auth.accounts.change_password(
            principal, current, "a different password", keyring, PHONE.ip_prefix
        )

    async def test_ends_every_other_session_at_once(self, auth):
        first = await register(auth)
        second = await auth.accounts.login(ANNA, PASSWORD, PHONE)
        principal = await who(auth, second)

        pair = await self.change(auth, principal)

        for ended in (first, second):
            assert auth.authenticator.recall(ended.access_token.encode()) is None
            with pytest.raises(InvalidCredentials):
                await who(auth, ended)
            with pytest.raises(InvalidCredentials):
                await auth.sessions.refresh(ended.refresh_token, NOWHERE)
        assert (await who(auth, pair)).user_id == principal.user_id
        assert await auth.sessions.refresh(pair.refresh_token, NOWHERE)

    async def test_the_new_password_opens_and_the_old_one_does_not(self, auth):
        await self.change(auth, await who(auth, await register(auth)))

        assert await auth.accounts.login(ANNA, OTHER, PHONE)
        with pytest.raises(InvalidCredentials):
            await auth.accounts.login(ANNA, PASSWORD, PHONE)

    async def test_the_device_keeps_its_name(self, auth):
        principal = await who(auth, await register(auth))

        await self.change(auth, principal)

        (row,) = await auth.sessions.list(principal.user_id)
        assert row.device_name == LAPTOP.name

    async def test_a_wrong_current_password_changes_nothing(self, auth):
        pair = await register(auth)

        with pytest.raises(PasswordWrong):
            await self.change(auth, await who(auth, pair), "not my password")

        assert await who(auth, pair)
        assert await auth.accounts.login(ANNA, PASSWORD, PHONE)

    async def test_guessing_the_current_password_becomes_slow(self, auth):
        principal = await who(auth, await register(auth))
        for _ in range(5):
            with pytest.raises(PasswordWrong):
                await self.change(auth, principal, "not my password")

        with pytest.raises(TooManyAttempts):
            await self.change(auth, principal, "not my password")

    async def test_a_keyring_must_come_wrapped_anew(self, auth):
        pair = await register(auth, keyring=KEYRING)
        principal = await who(auth, pair)

        with pytest.raises(KeyringRequired):
            await self.change(auth, principal)
        assert await who(auth, pair)
        await self.change(auth, principal, keyring="bmV3")

        assert (await auth.accounts.profile(principal.user_id)).keyring == "bmV3"

    async def test_an_account_with_an_auth_key_changes_to_another_auth_key(self, auth):
        principal = await who(auth, await register(auth, ANNA, AUTH_KEY))

        await auth.accounts.change_password(principal, "A" * 43, "B" * 43, None, NOWHERE)

        assert await auth.accounts.login(ANNA, credential_of(None, "B" * 43), PHONE)

    async def test_the_first_owner_sets_a_password_without_having_one(self, auth):
        owner = await auth.authenticator.authenticate(BOOTSTRAP.encode())

        pair = await auth.accounts.change_password(owner, None, "owner's password", None, NOWHERE)

        assert (await who(auth, pair)).role == "owner"
        with pytest.raises(PasswordWrong):
            await auth.accounts.change_password(owner, "guessed it?", "mine, mine!", None, NOWHERE)

    async def test_leaving_the_current_one_out_is_not_a_way_in(self, auth):
        principal = await who(auth, await register(auth))

        with pytest.raises(PasswordRefused):
            await self.change(auth, principal, None)

    async def test_of_two_at_once_one_wins(self, auth):
        principal = await who(auth, await register(auth))

        outcomes = await asyncio.gather(
            self.change(auth, principal), self.change(auth, principal), return_exceptions=True
        )

        assert sum(isinstance(outcome, AccountChanged) for outcome in outcomes) == 1
