"""API keys: made, listed, revoked."""

import pytest
from sqlalchemy import select

from app.modules.auth.api import InvalidCredentials, ScopeMissing
from app.modules.auth.models import ApiKeyRow
from app.modules.auth.service.keys import (
    MAX_KEYS,
    ExpiryPassed,
    KeyNotFound,
    ModelsOutOfReach,
    TooManyKeys,
)
from tests.modules.auth.people import EVERYTHING, NOWHERE, events, register, terms, who


class TestCreateKey:
    async def test_makes_a_key_that_is_let_in_with_its_scopes(self, auth):
        principal = await who(auth, await register(auth))

        row, key = await auth.keys.create(
            principal, terms("read", models=frozenset({"m"})), NOWHERE
        )

        found = await auth.authenticator.authenticate(key.encode())
        assert (found.kind, found.user_id, found.credential_id) == (
            "key",
            principal.user_id,
            row.id,
        )
        assert (found.scopes, found.models) == ({"read"}, {"m"})

    async def test_stores_no_secret(self, auth, sqlite):
        principal = await who(auth, await register(auth))

        _, key = await auth.keys.create(principal, EVERYTHING, NOWHERE)

        async with sqlite.read() as session:
            rows = [vars(row) for row in await session.scalars(select(ApiKeyRow))]
        assert key.split("_")[2] not in repr(rows)

    async def test_no_key_makes_one_that_may_more(self, auth):
        principal = await who(auth, await register(auth))
        _, key = await auth.keys.create(principal, terms("read", "inference"), NOWHERE)
        weak = await auth.authenticator.authenticate(key.encode())

        for scope in ("full", "metrics"):
            with pytest.raises(ScopeMissing):
                await auth.keys.create(weak, terms(scope), NOWHERE)
        assert await auth.keys.create(weak, terms("read"), NOWHERE)

    async def test_a_member_makes_no_key_for_the_metrics(self, auth):
        principal = await who(auth, await register(auth))

        with pytest.raises(ScopeMissing):
            await auth.keys.create(principal, terms("metrics"), NOWHERE)

    async def test_a_key_for_some_models_makes_none_for_others(self, auth):
        principal = await who(auth, await register(auth))
        _, key = await auth.keys.create(
            principal, terms("full", models=frozenset({"a", "b"})), NOWHERE
        )
        some = await auth.authenticator.authenticate(key.encode())

        for models in (None, frozenset({"c"}), frozenset({"a", "c"})):
            with pytest.raises(ModelsOutOfReach):
                await auth.keys.create(some, terms("full", models=models), NOWHERE)
        assert await auth.keys.create(some, terms("full", models=frozenset({"a"})), NOWHERE)

    async def test_a_key_that_was_never_valid_is_not_made(self, auth, clock):
        principal = await who(auth, await register(auth))

        with pytest.raises(ExpiryPassed):
            await auth.keys.create(principal, terms("read", expires_at=clock.now), NOWHERE)

    async def test_there_is_a_limit(self, auth, sqlite):
        principal = await who(auth, await register(auth))
        row, _ = await auth.keys.create(principal, terms("read"), NOWHERE)
        async with sqlite.begin() as session:
            session.add_all(
                ApiKeyRow(
                    user_id=principal.user_id,
                    public_id=f"{n}",
                    token_hash=f"{n}",
                    name="",
                    scopes=[],
                )
                for n in range(MAX_KEYS - 1)
            )

        with pytest.raises(TooManyKeys):
            await auth.keys.create(principal, terms("read"), NOWHERE)
        await auth.keys.revoke(principal, row.id, NOWHERE)
        assert await auth.keys.create(principal, terms("read"), NOWHERE)


class TestRevokeKey:
    async def test_is_effective_on_the_next_request(self, auth, sqlite):
        principal = await who(auth, await register(auth))
        row, key = await auth.keys.create(principal, EVERYTHING, NOWHERE)
        await auth.authenticator.authenticate(key.encode())
        assert auth.authenticator.recall(key.encode())

        await auth.keys.revoke(principal, row.id, NOWHERE)

        assert auth.authenticator.recall(key.encode()) is None
        with pytest.raises(InvalidCredentials):
            await auth.authenticator.authenticate(key.encode())
        assert (await events(sqlite))[-2:] == ["key-created", "key-revoked"]

    async def test_somebody_elses_key_is_not_found(self, auth):
        anna = await who(auth, await register(auth))
        bert = await who(auth, await register(auth, "bert@example.org"))
        row, key = await auth.keys.create(anna, EVERYTHING, NOWHERE)

        with pytest.raises(KeyNotFound):
            await auth.keys.revoke(bert, row.id, NOWHERE)

        assert await auth.authenticator.authenticate(key.encode())
        assert await auth.keys.list(bert.user_id) == []
