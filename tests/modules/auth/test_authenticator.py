"""Who is let in, what is remembered of them, and when it is forgotten."""

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from sqlalchemy import event

from app.adapters.cache import open_cache
from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database, uuid7
from app.kernel.errors import Unavailable
from app.kernel.jobs import JobBook
from app.modules.auth.adapters import open_signer
from app.modules.auth.api import InvalidCredentials, Principal, bearer_token
from app.modules.auth.service.authenticator import TokenAuthenticator
from app.modules.auth.service.recollection import MAX_ENTRIES, TOPIC, Recollection
from tests.modules.auth.forgery import ATTACKS, Forger
from tests.modules.auth.people import (
    ANNA,
    EVERYTHING,
    NOWHERE,
    PASSWORD,
    PHONE,
    DeafCache,
    make_kit,
    opened,
    register,
    terms,
    who,
)
from tests.waiting import until


@pytest.fixture
def queries(sqlite) -> list[str]:
    """Every statement since the test began."""
    seen: list[str] = []

    def on_execute(connection, cursor, statement, *_):
        seen.append(statement)

    for engine in (sqlite.reader, sqlite.writer):
        event.listen(engine.sync_engine, "before_cursor_execute", on_execute)
    return seen


def somebody(**more) -> Principal:
    values = {"user_id": uuid7(), "kind": "session", "credential_id": uuid7(), "role": "member"}
    return Principal(**values | {"scopes": frozenset({"full"})} | more)


def keeps(memory: Recollection, digest: bytes, principal=None, valid_s: float = 600.0) -> bool:
    memory.keep(digest, principal or somebody(), valid_s=valid_s, since=memory.mark())
    return memory.recall(digest) is not None


class TestAuthenticate:
    async def test_a_token_ends_with_its_ten_minutes(self, auth, clock):
        pair = await register(auth)
        clock.advance(599)
        assert await who(auth, pair)
        clock.advance(1)

        with pytest.raises(InvalidCredentials):
            await who(auth, pair)

    async def test_a_key_ends_with_its_expiry(self, auth, clock):
        principal = await who(auth, await register(auth))
        expires_at = clock.now + timedelta(seconds=20)
        _, key = await auth.keys.create(principal, terms("read", expires_at=expires_at), NOWHERE)
        clock.advance(19)
        assert await auth.authenticator.authenticate(key.encode())
        clock.advance(1)

        with pytest.raises(InvalidCredentials):
            await auth.authenticator.authenticate(key.encode())

    async def test_a_key_notes_the_day_of_its_use_once(self, auth, clock, queries):
        principal = await who(auth, await register(auth))
        _, key = await auth.keys.create(principal, terms("read"), NOWHERE)
        await auth.authenticator.authenticate(key.encode())
        queries.clear()

        await auth.authenticator.authenticate(key.encode())

        (row,) = await auth.keys.list(principal.user_id)
        assert row.last_used_on == clock.now.date()
        assert not any(query.startswith("UPDATE") for query in queries)

    async def test_those_who_come_together_cost_one_look(self, auth, queries):
        principal = await who(auth, await register(auth))
        _, key = await auth.keys.create(principal, terms("read"), NOWHERE)
        await auth.authenticator.authenticate(key.encode())
        queries.clear()
        await auth.authenticator.authenticate(key.encode())
        alone = len(queries)
        queries.clear()

        asking = (auth.authenticator.authenticate(key.encode()) for _ in range(50))
        found = await asyncio.gather(*asking)

        assert len({one.credential_id for one in found}) == 1
        assert len(queries) == alone

    async def test_who_comes_after_a_revocation_takes_no_answer_from_before_it(self, auth, sqlite):
        principal = await who(auth, await register(auth))
        row, key = await auth.keys.create(principal, terms("read"), NOWHERE)
        read = sqlite.read
        may_answer, was_read = asyncio.Event(), asyncio.Event()

        @asynccontextmanager
        async def slow_read():
            async with read() as session:
                yield session
            was_read.set()
            await may_answer.wait()

        sqlite.read = slow_read
        before = asyncio.create_task(auth.authenticator.authenticate(key.encode()))
        await was_read.wait()
        sqlite.read = read
        await auth.keys.revoke(principal, row.id, NOWHERE)

        with pytest.raises(InvalidCredentials):
            await auth.authenticator.authenticate(key.encode())

        may_answer.set()
        assert (await before).credential_id == row.id
        assert auth.authenticator.recall(key.encode()) is None

    @pytest.mark.parametrize(
        "token",
        [b"", b"x", b"isk_", b"isk_foreign_page", b"\xff\xfe", b"x" * 40, b"eyJ" + b"x" * 5000],
    )
    async def test_refuses_what_is_no_token(self, auth, token):
        assert auth.authenticator.recall(token) is None
        with pytest.raises(InvalidCredentials):
            await auth.authenticator.authenticate(token)

    async def test_refuses_every_token_that_is_almost_ours(self, auth, keys):
        genuine = (await register(auth)).access_token
        forger = Forger(genuine, keys)

        let_in = []
        for name, attack in ATTACKS.items():
            with suppress(InvalidCredentials):
                await auth.authenticator.authenticate(attack(forger).encode())
                let_in.append(name)

        assert let_in == []
        assert await auth.authenticator.authenticate(genuine.encode())

    async def test_a_forger_who_had_our_key_could_sign_what_we_sign(self, auth, keys):
        """So that the corpus fails for what is wrong with each token, and not for the forger."""
        genuine = (await register(auth)).access_token
        forger = Forger(genuine, keys)

        assert await auth.authenticator.authenticate(forger.with_payload(jti="other").encode())

    async def test_a_mistyped_key_costs_no_query(self, auth, queries):
        principal = await who(auth, await register(auth))
        _, key = await auth.keys.create(principal, terms("read"), NOWHERE)
        queries.clear()

        with pytest.raises(InvalidCredentials):
            await auth.authenticator.authenticate((key[:-1] + "!").encode())

        assert queries == []

    async def test_a_database_that_is_gone_lets_nobody_in(self, keys, clock, tmp_path):
        gone = Database(f"postgresql+asyncpg://nobody:@/none?host={tmp_path}", JobBook())
        memory = Recollection(MemoryCache())
        authenticator = TokenAuthenticator(gone, open_signer(keys), memory, clock)

        with pytest.raises(Unavailable):
            await authenticator.authenticate(b"x" * 40)

        await gone.close()


class TestAnonymous:
    @pytest.fixture
    async def open_house(self, sqlite, cache, keys, clock):
        async with opened(make_kit(sqlite, cache, keys, clock), AUTH_ANONYMOUS="on") as module:
            yield module

    async def test_acts_as_the_owner(self, open_house):
        principal = open_house.authenticator.recall(b"")

        assert (principal.kind, principal.role) == ("anonymous", "owner")
        assert principal.may("full")
        assert await open_house.authenticator.authenticate(b"") == principal

    async def test_clients_that_must_send_some_key_are_let_in(self, open_house):
        principal = await open_house.authenticator.authenticate(b"sk_no_auth_required")

        assert principal.kind == "anonymous"

    async def test_who_believes_to_be_somebody_is_not_let_in_as_the_owner(self, open_house, keys):
        pair = await register(open_house)
        forger = Forger(pair.access_token, keys)
        principal = await who(open_house, pair)
        row, key = await open_house.keys.create(principal, EVERYTHING, NOWHERE)
        await open_house.keys.revoke(principal, row.id, NOWHERE)

        for token in (key, forger.with_payload(exp=1), "isk_x", "eyJ", "eyJ" + "x" * 5000):
            with pytest.raises(InvalidCredentials):
                await open_house.authenticator.authenticate(token.encode())

    async def test_a_principal_of_its_own_is_kept_by_who_has_a_key(self, open_house):
        pair = await register(open_house)

        assert (await who(open_house, pair)).kind == "session"


class TestBearerToken:
    @pytest.mark.parametrize(
        ("headers", "token"),
        [
            ([(b"authorization", b"Bearer t")], b"t"),
            ([(b"authorization", b"bearer  t ")], b"t"),
            ([(b"x-api-key", b" t ")], b"t"),
            ([(b"accept", b"*/*"), (b"x-api-key", b"t")], b"t"),
            ([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"t")], b"t"),
            ([(b"authorization", b"Bearer "), (b"x-api-key", b"t")], b"t"),
            ([(b"authorization", b"Bearer t"), (b"origin", b"https://evil.example")], b"t"),
            ([(b"cookie", b"token=t")], b""),
            ([(b"authorization", b"Basic dTpw")], b""),
            ([], b""),
        ],
    )
    def test_is_in_one_of_two_headers_and_never_in_a_cookie(self, headers, token):
        assert bearer_token(headers) == token

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"origin", b"https://evil.example"), (b"host", b"localhost:8000")],
            [(b"origin", b"null"), (b"host", b"localhost:8000")],
            [(b"host", b"rebound.evil.example:8000")],
            [(b"authorization", b"Basic dTpw"), (b"origin", b"https://evil.example")],
            [(b"authorization", b"Bearer "), (b"origin", b"https://evil.example")],
        ],
    )
    async def test_a_page_from_elsewhere_is_nobody(self, sqlite, cache, keys, clock, headers):
        async with opened(make_kit(sqlite, cache, keys, clock), AUTH_ANONYMOUS="on") as auth:
            token = bearer_token(headers)

            assert auth.authenticator.recall(token) is None
            with pytest.raises(InvalidCredentials):
                await auth.authenticator.authenticate(token)


class TestRecollection:
    @pytest.fixture
    async def memory(self, cache):
        self.now_s = 0.0
        memory = Recollection(cache, monotonic=lambda: self.now_s)
        news = asyncio.create_task(memory.follow())
        await until(lambda: keeps(memory, b"first"))
        yield memory
        news.cancel()

    async def test_keeps_a_caller_for_half_a_minute_at_most(self, memory):
        keeps(memory, b"d")
        self.now_s = 29.9
        assert memory.recall(b"d")
        self.now_s = 30.0

        assert memory.recall(b"d") is None

    async def test_keeps_no_caller_longer_than_the_credential_is_valid(self, memory):
        keeps(memory, b"d", valid_s=5.0)
        self.now_s = 5.0

        assert memory.recall(b"d") is None

    async def test_is_bounded(self, memory):
        for number in range(MAX_ENTRIES + 1):
            memory.keep(b"%d" % number, somebody(), valid_s=600, since=memory.mark())

        assert memory.recall(b"0") is None
        assert memory.recall(b"1")
        assert memory.recall(b"%d" % MAX_ENTRIES)

    @pytest.mark.parametrize("what", ["user_id", "credential_id"])
    async def test_forgets_by_user_session_or_key(self, memory, what):
        gone, stays = somebody(), somebody()
        keeps(memory, b"gone", gone)
        keeps(memory, b"stays", stays)

        await memory.forget(getattr(gone, what))

        assert memory.recall(b"gone") is None
        assert memory.recall(b"stays") == stays

    async def test_does_not_keep_what_was_read_before_a_revocation(self, memory):
        principal, since = somebody(), memory.mark()
        await memory.forget(principal.credential_id)

        memory.keep(b"d", principal, valid_s=600, since=since)

        assert memory.recall(b"d") is None

    async def test_forgets_what_another_process_revokes(self, memory, cache):
        principal = somebody()
        keeps(memory, b"d", principal)

        await Recollection(cache).forget(principal.user_id)

        await until(lambda: memory.recall(b"d") is None)

    async def test_forgets_everything_over_news_it_cannot_read(self, memory, cache):
        keeps(memory, b"d")

        await cache.publish(TOPIC, "from a later version")

        await until(lambda: memory.recall(b"d") is None)

    async def test_keeps_nothing_while_news_may_be_missed(self):
        cache = DeafCache()
        memory = Recollection(cache)
        news = asyncio.create_task(memory.follow())
        assert not keeps(memory, b"d")

        cache.may_hear.set()
        await until(lambda: keeps(memory, b"d"))
        cache.loses.set()
        await until(lambda: memory.recall(b"d") is None)

        assert not keeps(memory, b"d")
        news.cancel()

    async def test_listens_again_whatever_ended_the_listening(self, cache):
        class BrokenOnce(MemoryCache):
            is_broken = True

            async def listen(self, topic):
                if self.is_broken:
                    self.is_broken = False
                    raise TypeError("a bug")
                async for message in super().listen(topic):
                    yield message

        memory = Recollection(BrokenOnce())
        news = asyncio.create_task(memory.follow())

        await until(lambda: keeps(memory, b"d"))

        news.cancel()

    async def test_a_revocation_that_cannot_be_told_still_holds_here(self):
        cache, principal = DeafCache(), somebody()
        memory = Recollection(cache)
        news = asyncio.create_task(memory.follow())
        cache.may_hear.set()
        await until(lambda: keeps(memory, b"d", principal))

        await memory.forget(principal.credential_id)

        assert memory.recall(b"d") is None
        news.cancel()


class TestNewsOverRedis:
    """Two processes, as far as their memories can tell."""

    @pytest.fixture
    async def pair(self, redis_url):
        caches = [open_cache(redis_url), open_cache(redis_url)]
        memories = [Recollection(cache) for cache in caches]
        listening = [asyncio.create_task(memory.follow()) for memory in memories]
        for memory in memories:
            await until(lambda memory=memory: keeps(memory, b"first"))
        yield memories
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        for cache in caches:
            await cache.close()

    async def test_what_one_revokes_the_other_forgets(self, pair):
        here, there = pair
        principal = somebody()
        assert keeps(there, b"d", principal)

        await here.forget(principal.credential_id)

        await until(lambda: there.recall(b"d") is None, within_s=1.0)

    async def test_a_lost_subscription_forgets_everything_until_it_stands_again(
        self, pair, redis_url
    ):
        import redis

        memory = pair[0]
        assert keeps(memory, b"d")

        with redis.Redis.from_url(redis_url) as admin:
            admin.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")

        await until(lambda: memory.recall(b"d") is None)
        await until(lambda: keeps(memory, b"d"))


class TestUntilRevoked:
    async def test_returns_when_that_session_ends(self, auth, queries):
        first = await who(auth, await register(auth))
        second = await who(auth, await auth.accounts.login(ANNA, PASSWORD, PHONE))
        queries.clear()
        lines = [asyncio.create_task(auth.authenticator.until_revoked(p)) for p in (first, second)]
        await until(lambda: len(queries) >= 2)

        await auth.sessions.revoke(first, second.credential_id, NOWHERE)

        await asyncio.wait_for(lines[1], 1.0)
        assert not lines[0].done()
        lines[0].cancel()

    async def test_returns_when_the_key_ends(self, auth, queries):
        principal = await who(auth, await register(auth))
        row, key = await auth.keys.create(principal, EVERYTHING, NOWHERE)
        found = await auth.authenticator.authenticate(key.encode())
        queries.clear()
        line = asyncio.create_task(auth.authenticator.until_revoked(found))
        await until(lambda: queries)

        await auth.keys.revoke(principal, row.id, NOWHERE)

        await asyncio.wait_for(line, 1.0)

    async def test_returns_when_the_password_changes(self, auth, queries):
        principal = await who(auth, await register(auth))
        queries.clear()
        line = asyncio.create_task(auth.authenticator.until_revoked(principal))
        await until(lambda: queries)

        await auth.accounts.change_password(
            principal, PASSWORD.secret.decode(), "a different password", None, NOWHERE
        )

        await asyncio.wait_for(line, 1.0)

    async def test_returns_at_once_for_what_ended_before(self, auth):
        principal = await who(auth, await register(auth))
        await auth.sessions.revoke(principal, principal.credential_id, NOWHERE)

        await asyncio.wait_for(auth.authenticator.until_revoked(principal), 1.0)
