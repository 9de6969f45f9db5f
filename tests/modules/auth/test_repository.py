"""Every statement of auth, on both databases."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from app.kernel.db import uuid7
from app.modules.auth.models import ApiKeyRow, EventRow, RefreshTokenRow, SessionRow, UserRow
from app.modules.auth.repository import (
    ApiKeyRepository,
    EmailTaken,
    EventRepository,
    KeyTaken,
    RefreshTokenRepository,
    SessionRepository,
    UserRepository,
)
from tests.fakes.clock import START

MOMENT = timedelta(microseconds=1)
DAY = timedelta(days=1)


def make_user(email: str = "anna@example.org", **more) -> UserRow:
    values = {"role": "member", "credential_kind": "password", "kdf_salt": "salt", "version": 1}
    return UserRow(id=uuid7(), email=email, **values | more)


def make_session(user: UserRow, **more) -> SessionRow:
    values = {"device_name": "laptop", "last_used_at": START, "expires_at": START + DAY}
    return SessionRow(id=uuid7(), user_id=user.id, **values | more)


def make_token(session: SessionRow, token_hash: str, **more) -> RefreshTokenRow:
    values = {"session_id": session.id, "expires_at": START + DAY}
    return RefreshTokenRow(id=uuid7(), token_hash=token_hash, **values | more)


def make_key(user: UserRow, public_id: str = "p", token_hash: str = "h", **more) -> ApiKeyRow:
    values = {"name": "key", "scopes": ["full"]}
    return ApiKeyRow(
        id=uuid7(), user_id=user.id, public_id=public_id, token_hash=token_hash, **values | more
    )


async def store(db, *rows) -> None:
    """One after another, so that what is referred to is there first."""
    async with db.begin() as session:
        for row in rows:
            session.add(row)
            await session.flush()


async def count(db, table) -> int:
    async with db.read() as session:
        return await session.scalar(select(func.count()).select_from(table))


@pytest.fixture
async def user(db) -> UserRow:
    user = make_user()
    await store(db, user)
    return user


class TestUsers:
    async def test_an_address_is_taken_once(self, db, user):
        with pytest.raises(EmailTaken):
            async with db.begin() as session:
                await UserRepository(session).add(make_user(user.email))

        assert await count(db, UserRow) == 1

    async def test_finds_by_address_and_by_id(self, db, user):
        async with db.read() as session:
            users = UserRepository(session)

            assert (await users.by_email(user.email)).id == user.id
            assert (await users.get(user.id)).email == user.email
            assert await users.by_email("nobody@example.org") is None
            assert await users.get(uuid7()) is None

    async def test_knows_the_networks_a_user_signed_in_from(self, db, user):
        def event(kind: str, prefix: str) -> EventRow:
            return EventRow(user_id=user.id, kind=kind, ip_prefix=prefix)

        await store(db, event("login", "home"), event("registered", "work"), event("other", "cafe"))

        async with db.read() as session:
            users = UserRepository(session)
            was_here = {
                prefix: (await users.by_email_and_place(user.email, prefix))[1]
                for prefix in ("home", "work", "cafe", "elsewhere")
            }
            stranger = await users.by_email_and_place("nobody@example.org", "home")
        assert was_here == {"home": True, "work": True, "cafe": False, "elsewhere": False}
        assert stranger == (None, False)

    async def test_the_owner_is_the_first_of_the_owners(self, db, user):
        first, second = make_user("a@x", role="owner"), make_user("b@x", role="owner")
        await store(db, first, second)

        async with db.read() as session:
            assert (await UserRepository(session).owner()).id == first.id

    async def test_there_may_be_no_owner(self, db, user):
        async with db.read() as session:
            assert await UserRepository(session).owner() is None


class TestSessions:
    async def test_finds_live_ones_with_their_user(self, db, user):
        live = make_session(user)
        await store(db, live)

        async with db.read() as session:
            found = await SessionRepository(session).find(live.id, START)

        assert (found[0].id, found[1].id) == (live.id, user.id)

    async def test_an_expired_or_revoked_one_is_not_found(self, db, user):
        expired = make_session(user, expires_at=START)
        revoked = make_session(user, revoked_at=START)
        await store(db, expired, revoked)

        async with db.read() as session:
            sessions = SessionRepository(session)

            assert await sessions.find(expired.id, START) is None
            assert await sessions.find(expired.id, START - MOMENT) is not None
            assert await sessions.find(revoked.id, START - MOMENT) is None
            assert await sessions.live(user.id, START) == []

    async def test_lists_the_last_used_first(self, db, user):
        other = make_user("other@example.org")
        old = make_session(user, last_used_at=START - DAY)
        new = make_session(user, last_used_at=START)
        await store(db, other, old, new, make_session(other))

        async with db.read() as session:
            rows = await SessionRepository(session).live(user.id, START)

        assert [row.id for row in rows] == [new.id, old.id]

    async def test_revokes_once_and_only_for_its_user(self, db, user):
        live = make_session(user)
        await store(db, live)

        async with db.begin() as session:
            sessions = SessionRepository(session)

            assert not await sessions.revoke(live.id, uuid7(), START)
            assert await sessions.revoke(live.id, user.id, START)
            assert not await sessions.revoke(live.id, user.id, START)

    async def test_revokes_all_but_one(self, db, user):
        other = make_user("other@example.org")
        mine, kept, foreign = make_session(user), make_session(user), make_session(other)
        await store(db, other, mine, kept, foreign)

        async with db.begin() as session:
            ended = await SessionRepository(session).revoke_all(user.id, START, besides=kept.id)

        assert ended == [mine.id]
        async with db.read() as session:
            assert len(await SessionRepository(session).live(other.id, START)) == 1

    async def test_revokes_those_that_were_silent_longest(self, db, user):
        rows = [make_session(user, last_used_at=START - n * DAY) for n in range(4)]
        await store(db, *rows)

        async with db.begin() as session:
            ended = await SessionRepository(session).revoke_stalest(user.id, START, keep=3)

        assert ended == [rows[3].id]


class TestRefreshTokens:
    async def test_locks_a_token_of_a_live_session(self, db, user):
        live, dead = make_session(user), make_session(user, revoked_at=START)
        await store(db, live, dead, make_token(live, "live"), make_token(dead, "dead"))

        async with db.begin() as session:
            tokens = RefreshTokenRepository(session)
            found = await tokens.lock("live", START)

            assert (found[1].id, found[2].id) == (live.id, user.id)
            assert await tokens.lock("dead", START) is None
            assert await tokens.lock("unknown", START) is None

    async def test_a_family_cannot_fork(self, db, user):
        live = make_session(user)
        parent = make_token(live, "parent")
        await store(db, live, parent, make_token(live, "child", parent_id=parent.id))

        with pytest.raises(IntegrityError):
            await store(db, make_token(live, "twin", parent_id=parent.id))

    async def test_knows_whether_the_successor_is_used(self, db, user):
        live = make_session(user)
        parent = make_token(live, "1")
        child = make_token(live, "2", parent_id=parent.id, used_at=START)
        await store(db, live, parent, child, make_token(live, "3", parent_id=child.id))

        async with db.read() as session:
            tokens = RefreshTokenRepository(session)

            assert await tokens.is_successor_used(parent.id)
            assert not await tokens.is_successor_used(child.id)
            assert not await tokens.is_successor_used(uuid7())

    async def test_drops_a_sealed_copy(self, db, user):
        live = make_session(user)
        token = make_token(live, "1", successor_sealed="sealed")
        await store(db, live, token)

        async with db.begin() as session:
            await RefreshTokenRepository(session).forget_successor(token.id)

        async with db.read() as session:
            assert (await session.get(RefreshTokenRow, token.id)).successor_sealed is None


class TestApiKeys:
    async def test_a_text_or_a_public_id_is_taken_once(self, db, user):
        await store(db, make_key(user, "p", "h"))

        for twin in (make_key(user, "p", "other"), make_key(user, "other", "h")):
            with pytest.raises(KeyTaken):
                async with db.begin() as session:
                    await ApiKeyRepository(session).add(twin)

    async def test_finds_valid_ones_with_their_user(self, db, user):
        key = make_key(user, scopes=["read", "metrics"], models=["a", "b"])
        await store(db, key)

        async with db.read() as session:
            keys = ApiKeyRepository(session)
            found, owner = await keys.find("h", START)

            assert (found.scopes, found.models, owner.id) == (
                ["read", "metrics"],
                ["a", "b"],
                user.id,
            )
            assert (await keys.find_by_id(key.id, START))[0].id == key.id

    async def test_no_models_are_every_model_and_not_an_empty_list(self, db, user):
        await store(db, make_key(user, "p", "h"), make_key(user, "q", "i", models=[]))

        async with db.read() as session:
            keys = ApiKeyRepository(session)

            assert (await keys.find("h", START))[0].models is None
            assert (await keys.find("i", START))[0].models == []

    async def test_an_expired_or_revoked_one_is_not_found(self, db, user):
        await store(
            db,
            make_key(user, "p", "expired", expires_at=START),
            make_key(user, "q", "revoked", revoked_at=START),
        )

        async with db.read() as session:
            keys = ApiKeyRepository(session)

            assert await keys.find("expired", START) is None
            assert await keys.find("expired", START - MOMENT) is not None
            assert await keys.find("revoked", START) is None
            assert await keys.by_hash("revoked") is not None

    async def test_lists_and_counts_what_is_not_revoked(self, db, user):
        rows = [
            make_key(user, "a", "a"),
            make_key(user, "b", "b", expires_at=START),
            make_key(user, "c", "c", revoked_at=START),
        ]
        await store(db, *rows)

        async with db.read() as session:
            keys = ApiKeyRepository(session)

            assert [row.public_id for row in await keys.unrevoked(user.id)] == ["b", "a"]
            assert await keys.count_unrevoked(user.id) == 2
            assert await keys.count_unrevoked(uuid7()) == 0

    async def test_revokes_once_and_only_for_its_user(self, db, user):
        key = make_key(user)
        await store(db, key)

        async with db.begin() as session:
            keys = ApiKeyRepository(session)

            assert not await keys.revoke(key.id, uuid7(), START)
            assert await keys.revoke(key.id, user.id, START)
            assert not await keys.revoke(key.id, user.id, START)

    async def test_notes_the_day_of_use(self, db, user):
        key = make_key(user)
        await store(db, key)

        async with db.begin() as session:
            await ApiKeyRepository(session).note_use(key.id, START.date())

        async with db.begin() as session:
            found = await ApiKeyRepository(session).lock_by_public_id("p")
        assert found.last_used_on == START.date()


class TestSweep:
    async def test_old_tokens_go_and_their_successors_stay(self, db, user):
        live = make_session(user)
        old = make_token(live, "old", expires_at=START - DAY)
        await store(db, live, old, make_token(live, "new", parent_id=old.id))

        async with db.begin() as session:
            assert await RefreshTokenRepository(session).sweep(START, 10) == 1

        assert await count(db, RefreshTokenRow) == 1

    async def test_ended_sessions_go_with_their_tokens(self, db, user):
        ended = make_session(user, expires_at=START - DAY)
        revoked = make_session(user, revoked_at=START - DAY)
        live = make_session(user)
        await store(db, ended, revoked, live, make_token(ended, "1"), make_token(live, "2"))

        async with db.begin() as session:
            assert await SessionRepository(session).sweep(START, 10) == 2

        assert await count(db, SessionRow) == 1
        assert await count(db, RefreshTokenRow) == 1

    async def test_old_events_go_a_batch_at_a_time(self, db, user):
        old = [
            EventRow(user_id=user.id, kind="login", ip_prefix="", created_at=START - DAY)
            for _ in range(3)
        ]
        await store(db, *old)

        async with db.begin() as session:
            events = EventRepository(session)

            assert await events.sweep(START, 2) == 2
            assert await events.sweep(START, 2) == 1
            assert await events.sweep(START, 2) == 0
