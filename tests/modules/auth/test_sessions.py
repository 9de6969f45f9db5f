"""Sessions: refreshing, listing, revoking. Refreshing on both databases."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from app.adapters.cache.memory import MemoryCache
from app.modules.auth.adapters import open_signer
from app.modules.auth.api import InvalidCredentials
from app.modules.auth.domain import Lifetimes, TokenPair, fingerprint
from app.modules.auth.models import RefreshTokenRow
from app.modules.auth.service.issuer import TokenIssuer
from app.modules.auth.service.recollection import Recollection
from app.modules.auth.service.sessions import RefreshReused, SessionNotFound, SessionService
from tests.modules.auth.people import (
    ANNA,
    NOWHERE,
    PASSWORD,
    PHONE,
    count,
    events,
    make_kit,
    opened,
    register,
    who,
)

MONTH_S = 30 * 24 * 3600


@pytest.fixture
async def auth(db, cache, keys, clock):
    """The module on both databases, in place of SQLite alone."""
    async with opened(make_kit(db, cache, keys, clock)) as module:
        yield module


@pytest.fixture
async def neighbour(db, keys, clock, auth):
    """Another process on the same database, which hears no news from the first."""
    async with opened(make_kit(db, MemoryCache(), keys, clock)) as module:
        yield module


async def refresh(auth, token: str):
    return await auth.sessions.refresh(token, PHONE.ip_prefix)


class TestRefresh:
    async def test_brings_the_next_pair_of_the_same_session(self, auth):
        first = await register(auth)

        second = await refresh(auth, first.refresh_token)

        assert second.refresh_token != first.refresh_token
        assert await who(auth, second) == await who(auth, first)

    async def test_an_unknown_token_is_refused(self, auth):
        for token in ("", "x", "\U0001f511", "x" * 512):
            with pytest.raises(InvalidCredentials):
                await refresh(auth, token)

    async def test_a_session_ends_when_it_is_not_refreshed_for_a_month(self, auth, clock):
        first = await register(auth)
        clock.advance(MONTH_S - 1)
        second = await refresh(auth, first.refresh_token)
        clock.advance(MONTH_S - 1)
        third = await refresh(auth, second.refresh_token)
        clock.advance(MONTH_S)

        with pytest.raises(InvalidCredentials) as refused:
            await refresh(auth, third.refresh_token)

        assert type(refused.value) is InvalidCredentials

    async def test_a_lost_answer_can_be_had_again(self, auth, clock):
        first = await register(auth)
        lost = await refresh(auth, first.refresh_token)
        clock.advance(30)

        again = await refresh(auth, first.refresh_token)

        assert again.refresh_token == lost.refresh_token
        assert await refresh(auth, again.refresh_token)

    async def test_a_lost_answer_can_be_had_again_from_another_process(self, auth, neighbour):
        first = await register(auth)
        lost = await refresh(auth, first.refresh_token)

        again = await refresh(neighbour, first.refresh_token)

        assert again.refresh_token == lost.refresh_token

    async def test_reuse_after_the_successor_was_used_ends_the_session(self, auth, db):
        first = await register(auth)
        second = await refresh(auth, first.refresh_token)
        third = await refresh(auth, second.refresh_token)

        with pytest.raises(RefreshReused):
            await refresh(auth, first.refresh_token)

        for pair in (second, third):
            with pytest.raises(InvalidCredentials):
                await refresh(auth, pair.refresh_token)
        with pytest.raises(InvalidCredentials):
            await who(auth, third)
        assert (await events(db))[-1] == "refresh-reused"

    async def test_reuse_after_half_a_minute_ends_the_session(self, auth, clock):
        first = await register(auth)
        second = await refresh(auth, first.refresh_token)
        clock.advance(31)

        with pytest.raises(RefreshReused):
            await refresh(auth, first.refresh_token)
        with pytest.raises(InvalidCredentials):
            await refresh(auth, second.refresh_token)

    async def test_reuse_ends_that_session_and_no_other(self, auth, clock):
        first = await register(auth)
        other = await auth.accounts.login(ANNA, PASSWORD, PHONE)
        await refresh(auth, first.refresh_token)
        clock.advance(31)
        with pytest.raises(RefreshReused):
            await refresh(auth, first.refresh_token)

        assert await refresh(auth, other.refresh_token)

    async def test_reuse_is_told_once_and_then_the_session_is_simply_over(self, auth, clock, db):
        first = await register(auth)
        await refresh(auth, first.refresh_token)
        clock.advance(31)
        for _ in range(3):
            with pytest.raises(InvalidCredentials):
                await refresh(auth, first.refresh_token)

        assert (await events(db)).count("refresh-reused") == 1

    async def test_fifty_at_once_get_one_successor(self, auth, db):
        first = await register(auth)

        pairs = await asyncio.gather(*(refresh(auth, first.refresh_token) for _ in range(50)))

        assert len({pair.refresh_token for pair in pairs}) == 1
        assert await count(db, RefreshTokenRow) == 2
        assert await refresh(auth, pairs[0].refresh_token)

    async def test_two_processes_at_once_get_one_successor(self, auth, neighbour, db):
        first = await register(auth)

        pairs = await asyncio.gather(
            *(refresh(side, first.refresh_token) for _ in range(10) for side in (auth, neighbour))
        )

        assert len({pair.refresh_token for pair in pairs}) == 1
        assert await count(db, RefreshTokenRow) == 2

    async def test_a_race_of_the_token_and_its_successor_never_forks(self, auth, db):
        first = await register(auth)
        second = await refresh(auth, first.refresh_token)
        both = [first.refresh_token, second.refresh_token] * 5

        outcomes = await asyncio.gather(
            *(refresh(auth, token) for token in both), return_exceptions=True
        )

        assert {type(o) for o in outcomes} <= {TokenPair, RefreshReused, InvalidCredentials}
        async with db.read() as session:
            parents = list(await session.scalars(select(RefreshTokenRow.parent_id)))
        assert len(parents) == len(set(parents)) <= 3

    async def test_a_refresh_during_a_password_change_ends_with_the_session(self, auth):
        first = await register(auth)
        principal = await who(auth, first)

        change = auth.accounts.change_password(
            principal, "correct horse battery", "a different password", None, NOWHERE
        )
        refreshed, changed = await asyncio.gather(
            refresh(auth, first.refresh_token), change, return_exceptions=True
        )

        assert await who(auth, changed)
        for old in (first, refreshed):
            if not isinstance(old, InvalidCredentials):
                with pytest.raises(InvalidCredentials):
                    await who(auth, old)

    async def test_a_crash_before_the_commit_changes_nothing(self, auth, db, keys, clock):
        """The successor was made and sealed, and the process died before it was written."""
        first = await register(auth)

        class Dies(Exception):
            pass

        class DyingDatabase:
            def begin(self):
                raise Dies

        lifetimes = Lifetimes(timedelta(minutes=10), timedelta(days=30))
        issuer = TokenIssuer(open_signer(keys), lifetimes, clock)
        dying = SessionService(DyingDatabase(), issuer, Recollection(MemoryCache()), clock)
        with pytest.raises(Dies):
            await dying.refresh(first.refresh_token, NOWHERE)

        assert await refresh(auth, first.refresh_token)
        assert await count(db, RefreshTokenRow) == 2

    async def test_a_sealed_copy_that_cannot_be_opened_is_no_reuse(self, auth, db):
        """The master secret was replaced, not rotated, in the half minute."""
        first = await register(auth)
        second = await refresh(auth, first.refresh_token)
        async with db.begin() as session:
            row = await session.scalar(
                select(RefreshTokenRow).where(
                    RefreshTokenRow.token_hash == fingerprint(first.refresh_token.encode())
                )
            )
            row.successor_sealed = "gone:AAAA"

        with pytest.raises(InvalidCredentials):
            await refresh(auth, first.refresh_token)

        assert await refresh(auth, second.refresh_token)

    async def test_a_sealed_copy_is_kept_no_longer_than_it_may_be_asked_for(self, auth, db):
        pair = await register(auth)
        for _ in range(3):
            pair = await refresh(auth, pair.refresh_token)

        assert await count(db, RefreshTokenRow, RefreshTokenRow.successor_sealed.is_not(None)) == 1


class TestList:
    async def test_shows_live_sessions_of_the_user_only(self, auth):
        anna = await who(auth, await register(auth))
        bert = await who(auth, await register(auth, "bert@example.org"))
        await auth.accounts.login(ANNA, PASSWORD, PHONE)

        assert len(await auth.sessions.list(anna.user_id)) == 2
        assert len(await auth.sessions.list(bert.user_id)) == 1


class TestRevoke:
    async def test_is_effective_on_the_next_request(self, auth, db):
        pair = await register(auth)
        principal = await who(auth, pair)
        assert auth.authenticator.recall(pair.access_token.encode())

        await auth.sessions.revoke(principal, principal.credential_id, NOWHERE)

        assert auth.authenticator.recall(pair.access_token.encode()) is None
        with pytest.raises(InvalidCredentials):
            await who(auth, pair)
        with pytest.raises(InvalidCredentials):
            await refresh(auth, pair.refresh_token)
        assert (await events(db))[-1] == "session-revoked"

    async def test_somebody_elses_session_is_not_found(self, auth):
        pair = await register(auth)
        anna = await who(auth, pair)
        bert = await who(auth, await register(auth, "bert@example.org"))

        with pytest.raises(SessionNotFound):
            await auth.sessions.revoke(bert, anna.credential_id, NOWHERE)

        assert await who(auth, pair)

    async def test_a_session_is_revoked_once(self, auth):
        principal = await who(auth, await register(auth))
        await auth.sessions.revoke(principal, principal.credential_id, NOWHERE)

        with pytest.raises(SessionNotFound):
            await auth.sessions.revoke(principal, principal.credential_id, NOWHERE)


class TestRevokeOthers:
    async def test_leaves_the_session_that_asks(self, auth):
        first = await register(auth)
        second = await auth.accounts.login(ANNA, PASSWORD, PHONE)

        await auth.sessions.revoke_others(await who(auth, second), NOWHERE)

        with pytest.raises(InvalidCredentials):
            await who(auth, first)
        assert await who(auth, second)

    async def test_leaves_other_users_alone(self, auth):
        bert = await register(auth, "bert@example.org")

        await auth.sessions.revoke_others(await who(auth, await register(auth)), NOWHERE)

        assert await who(auth, bert)
