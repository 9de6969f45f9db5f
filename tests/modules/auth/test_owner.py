"""The first start, and every later one. On both databases."""

import argparse
import asyncio

import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.kernel.settings import SettingsError, load
from app.modules.auth.api import InvalidCredentials
from app.modules.auth.domain import fingerprint
from app.modules.auth.models import ApiKeyRow, UserRow
from app.modules.auth.module import AuthModule
from app.modules.auth.settings import AuthSettings
from tests.modules.auth.people import (
    BOOTSTRAP,
    EVERYTHING,
    NOWHERE,
    count,
    environ,
    events,
    make_kit,
    opened,
)

ANOTHER = "another-bootstrap-0123456789abcdefgh"


@pytest.fixture
def kit(db, keys, clock):
    return make_kit(db, MemoryCache(), keys, clock)


async def is_let_in(auth: AuthModule, key: str) -> bool:
    try:
        return (await auth.authenticator.authenticate(key.encode())).role == "owner"
    except InvalidCredentials:
        return False


def announced(kit) -> str:
    """The key in the last notice."""
    return kit.notices[-1].rpartition(" ")[2]


class TestFirstStart:
    async def test_makes_an_owner_and_announces_a_key_once(self, kit, db):
        async with opened(kit, APP_BOOTSTRAP_KEY="") as auth:
            assert await is_let_in(auth, announced(kit))
        async with opened(kit, APP_BOOTSTRAP_KEY=""):
            pass

        assert len(kit.notices) == 1
        assert await count(db, UserRow) == await count(db, ApiKeyRow) == 1
        assert await events(db) == ["owner-created", "key-created"]

    async def test_takes_the_key_it_is_given_and_announces_none(self, kit, db):
        async with opened(kit) as auth:
            assert await is_let_in(auth, BOOTSTRAP)

        assert kit.notices == []
        assert (
            await count(db, ApiKeyRow, ApiKeyRow.token_hash == fingerprint(BOOTSTRAP.encode())) == 1
        )

    @pytest.mark.parametrize("bootstrap", ["", BOOTSTRAP])
    async def test_several_processes_at_once_make_one_owner(
        self, kit, db, database_url, keys, clock, bootstrap
    ):
        databases = [Database(database_url, JobBook()) for _ in range(4)]
        kits = [kit, *(make_kit(other, MemoryCache(), keys, clock) for other in databases)]
        modules = [
            AuthModule(load(AuthSettings, environ(APP_BOOTSTRAP_KEY=bootstrap)), kit)
            for kit in kits
        ]

        await asyncio.gather(*(module.open() for module in modules))

        notices = [notice for kit in kits for notice in kit.notices]
        assert len(notices) == (0 if bootstrap else 1)
        assert await count(db, UserRow) == await count(db, ApiKeyRow) == 1
        for module in modules:
            await module.close()
        for other in databases:
            await other.close()

    async def test_a_crash_before_the_key_is_told_is_made_good_at_the_terminal(self, kit, db):
        """The owner and the key are committed, and the process dies before it prints."""
        async with opened(kit, APP_BOOTSTRAP_KEY=""):
            kit.notices.clear()

        async with opened(kit, APP_BOOTSTRAP_KEY="") as auth:
            assert kit.notices == []
            assert await is_let_in(auth, await run_owner_key(auth))


class TestBootstrapKey:
    async def test_stays_what_it_is_from_start_to_start(self, kit, db):
        for _ in range(3):
            async with opened(kit) as auth:
                assert await is_let_in(auth, BOOTSTRAP)

        assert await count(db, ApiKeyRow) == 1

    async def test_changing_it_revokes_the_old_one(self, kit, db):
        async with opened(kit):
            pass
        async with opened(kit, APP_BOOTSTRAP_KEY=ANOTHER) as auth:
            assert not await is_let_in(auth, BOOTSTRAP)
            assert await is_let_in(auth, ANOTHER)

        assert (await events(db))[-1] == "bootstrap-key-changed"

    async def test_unsetting_it_withdraws_it_until_it_is_set_again(self, kit, db):
        async with opened(kit):
            pass
        async with opened(kit, APP_BOOTSTRAP_KEY="") as auth:
            assert not await is_let_in(auth, BOOTSTRAP)
        async with opened(kit) as auth:
            assert await is_let_in(auth, BOOTSTRAP)

        assert kit.notices == []
        assert (await events(db))[-1] == "bootstrap-key-withdrawn"

    async def test_one_that_its_owner_revoked_stops_the_start(self, kit, db):
        async with opened(kit) as auth:
            principal = await auth.authenticator.authenticate(BOOTSTRAP.encode())
            await auth.keys.revoke(principal, principal.credential_id, NOWHERE)

        with pytest.raises(SettingsError, match="was revoked"):
            async with opened(kit):
                pass
        async with opened(kit, APP_BOOTSTRAP_KEY=ANOTHER) as auth:
            assert await is_let_in(auth, ANOTHER)

    async def test_one_that_is_another_key_stops_the_start(self, kit, db):
        async with opened(kit) as auth:
            principal = await auth.authenticator.authenticate(BOOTSTRAP.encode())
            _, key = await auth.keys.create(principal, EVERYTHING, NOWHERE)

        with pytest.raises(SettingsError, match="is an API key already"):
            async with opened(kit, APP_BOOTSTRAP_KEY=key):
                pass

    @pytest.mark.parametrize("key", ["short", "x" * 31, "isk_" + "x" * 40, "eyJ" + "x" * 40])
    def test_one_that_cannot_be_a_key_stops_the_start(self, kit, key):
        with pytest.raises(SettingsError, match="APP_BOOTSTRAP_KEY"):
            AuthModule(load(AuthSettings, environ(APP_BOOTSTRAP_KEY=key)), kit)


class TestAnonymous:
    def test_is_refused_unless_only_this_machine_can_reach_the_house(self, db, keys, clock):
        kit = make_kit(db, MemoryCache(), keys, clock, is_loopback=False)

        with pytest.raises(SettingsError, match="AUTH_ANONYMOUS=on"):
            AuthModule(load(AuthSettings, environ(AUTH_ANONYMOUS="on")), kit)

    def test_is_on_or_off_and_nothing_else(self):
        with pytest.raises(SettingsError, match="AUTH_ANONYMOUS"):
            load(AuthSettings, environ(AUTH_ANONYMOUS="maybe"))


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("AUTH_ARGON_MEMORY_KIB", "19455"),
            ("AUTH_ARGON_ITERATIONS", "1"),
            ("AUTH_ARGON_PARALLELISM", "0"),
            ("AUTH_ACCESS_TTL_S", "0"),
        ],
    )
    def test_nothing_goes_below_its_floor(self, name, value):
        with pytest.raises(SettingsError, match=name):
            load(AuthSettings, environ(**{name: value}))


class TestOwnerKey:
    async def test_makes_another_key_and_leaves_the_others(self, kit):
        async with opened(kit) as auth:
            key = await run_owner_key(auth)

            assert await is_let_in(auth, key)
            assert await is_let_in(auth, BOOTSTRAP)

    async def test_makes_the_owner_where_there_is_none(self, kit, db):
        auth = AuthModule(load(AuthSettings, environ(APP_BOOTSTRAP_KEY="")), kit)

        key = await run_owner_key(auth)

        assert await is_let_in(auth, key)
        assert await count(db, ApiKeyRow) == 1
        await auth.close()


async def run_owner_key(auth: AuthModule) -> str:
    """Run the command as the command line does."""
    (command,) = auth.commands()
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return await command.run(parser.parse_args([]))
