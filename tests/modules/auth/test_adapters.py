"""Slow hashes and signed tokens."""

import asyncio
import json
import statistics
import subprocess
import sys
import time

import msgspec
import pytest

from app.kernel.db import uuid7
from app.kernel.errors import TooMany
from app.kernel.keys import Keyring
from app.kernel.settings import load
from app.modules.auth.adapters import open_hasher, open_signer
from app.modules.auth.adapters.argon2id import MAX_PARALLEL, MAX_WAITING
from app.modules.auth.domain import Claims, Verdict
from app.modules.auth.settings import AuthSettings
from tests.modules.auth.forgery import Forger, unb64
from tests.modules.auth.people import SECRET, environ

OLD_SECRET = "an older master secret, 0123456789abcdef"
CLAIMS = Claims(uuid7(), uuid7(), 1, 4102488000, 4102488600, "j")


@pytest.fixture
async def hasher(keys):
    hasher = open_hasher(load(AuthSettings, environ()), keys)
    yield hasher
    hasher.close()


class TestHasher:
    async def test_knows_its_own_hash_again(self, hasher):
        stored = await hasher.hash(b"secret")

        assert await hasher.verify(stored, b"secret") is Verdict.RIGHT
        assert await hasher.verify(stored, b"Secret") is Verdict.WRONG

    async def test_never_writes_the_same_hash_twice(self, hasher):
        assert await hasher.hash(b"secret") != await hasher.hash(b"secret")

    async def test_writes_argon2id_with_the_given_parameters(self, hasher):
        assert "$argon2id$v=19$m=19456,t=2,p=1$" in await hasher.hash(b"secret")

    async def test_nothing_matches_an_account_that_is_not_there(self, hasher):
        assert await hasher.verify(None, b"") is Verdict.WRONG

    @pytest.mark.parametrize("stored", ["", "x", ":", "plaintext", "0123:$argon2id$v=19$"])
    async def test_a_damaged_hash_matches_nothing(self, hasher, stored):
        assert await hasher.verify(stored, stored.encode()) is Verdict.WRONG

    async def test_a_damaged_hash_of_our_key_matches_nothing(self, hasher, keys):
        assert await hasher.verify(f"{keys.current}:$argon2id$?", b"x") is Verdict.WRONG

    async def test_raised_parameters_make_a_hash_outdated(self, hasher, keys):
        stored = await hasher.hash(b"secret")
        costlier = open_hasher(load(AuthSettings, environ(AUTH_ARGON_ITERATIONS="3")), keys)

        verdict = await costlier.verify(stored, b"secret")

        costlier.close()
        assert verdict is Verdict.OUTDATED

    async def test_a_rotated_secret_makes_a_hash_outdated_and_keeps_it_valid(self):
        before = open_hasher(load(AuthSettings, environ()), Keyring([OLD_SECRET]))
        after = open_hasher(load(AuthSettings, environ()), Keyring([SECRET, OLD_SECRET]))
        stored = await before.hash(b"secret")

        verdict = await after.verify(stored, b"secret")

        before.close()
        after.close()
        assert verdict is Verdict.OUTDATED

    async def test_a_stolen_table_is_worth_nothing_without_the_secret(self, hasher):
        thief = open_hasher(load(AuthSettings, environ()), Keyring([OLD_SECRET]))
        stored = await hasher.hash(b"secret")

        verdict = await thief.verify(stored, b"secret")

        thief.close()
        assert verdict is Verdict.WRONG

    async def test_an_unknown_account_costs_what_a_wrong_password_costs(self, hasher):
        stored = await hasher.hash(b"secret")

        async def cost_s(given: str | None) -> float:
            started = time.process_time()
            await hasher.verify(given, b"wrong!")
            return time.process_time() - started

        pairs = [(await cost_s(stored), await cost_s(None)) for _ in range(15)]

        known, unknown = (statistics.median(costs) for costs in zip(*pairs, strict=True))
        assert unknown == pytest.approx(known, rel=0.25)

    async def test_a_crowd_is_partly_told_to_come_back(self, hasher):
        outcomes = await asyncio.gather(
            *(hasher.verify(None, b"x") for _ in range(200)), return_exceptions=True
        )

        busy = [outcome for outcome in outcomes if isinstance(outcome, TooMany)]
        assert len(outcomes) - len(busy) <= MAX_PARALLEL + MAX_WAITING
        assert all(outcome.extra["retry_after_s"] > 0 for outcome in busy)
        assert await hasher.verify(None, b"x") is Verdict.WRONG

    async def test_who_goes_away_frees_their_place(self, hasher):
        crowd = [asyncio.create_task(hasher.verify(None, b"x")) for _ in range(30)]
        await asyncio.sleep(0)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)

        outcomes = await asyncio.gather(
            *(hasher.verify(None, b"x") for _ in range(20)), return_exceptions=True
        )

        assert set(outcomes) == {Verdict.WRONG}


class TestSigner:
    async def test_reads_what_it_signed(self, keys):
        signer = open_signer(keys)

        assert await signer.read((await signer.sign(CLAIMS)).encode()) == CLAIMS

    async def test_says_exactly_the_eight_claims(self, keys):
        header, payload, _ = (await open_signer(keys).sign(CLAIMS)).split(".")

        assert json.loads(unb64(header)) == {"alg": "EdDSA", "typ": "JWT", "kid": keys.current}
        assert list(json.loads(unb64(payload))) == [
            "iss",
            "aud",
            "sub",
            "sid",
            "ver",
            "iat",
            "exp",
            "jti",
        ]

    async def test_reads_tokens_of_an_older_secret_and_signs_with_the_newest(self):
        old, both = Keyring([OLD_SECRET]), Keyring([SECRET, OLD_SECRET])
        before, after = open_signer(old), open_signer(both)

        assert await after.read((await before.sign(CLAIMS)).encode()) == CLAIMS
        assert await before.read((await after.sign(CLAIMS)).encode()) is None

    async def test_refuses_tokens_of_a_secret_that_is_gone(self):
        gone, now = open_signer(Keyring([OLD_SECRET])), open_signer(Keyring([SECRET]))

        assert await now.read((await gone.sign(CLAIMS)).encode()) is None

    async def test_a_token_under_the_id_of_another_of_our_keys_is_refused(self):
        both = Keyring([SECRET, OLD_SECRET])
        signer = open_signer(both)
        forger = Forger(await signer.sign(CLAIMS), both)

        assert await signer.read(forger.with_header(kid=both.ids[1]).encode()) is None

    async def test_leaves_time_to_whoever_has_the_clock(self, keys):
        past = msgspec.structs.replace(CLAIMS, iat=1, exp=2)
        signer = open_signer(keys)

        assert await signer.read((await signer.sign(past)).encode()) == past

    async def test_unseals_what_it_sealed(self, keys):
        signer = open_signer(keys)
        sealed = await signer.seal("a token", b"parent")

        assert "a token" not in sealed
        assert await signer.unseal(sealed, b"parent") == "a token"

    async def test_unseals_for_nobody_else(self, keys):
        signer = open_signer(keys)
        sealed = await signer.seal("a token", b"parent")

        assert await signer.unseal(sealed, b"stranger") is None
        assert await open_signer(Keyring([OLD_SECRET])).unseal(sealed, b"parent") is None

    @pytest.mark.parametrize("sealed", ["", ":", "x:y", "AAAA", "\x00"])
    async def test_unseals_no_nonsense(self, keys, sealed):
        signer = open_signer(keys)

        assert await signer.unseal(sealed, b"") is None
        assert await signer.unseal(f"{keys.current}:{sealed}", b"") is None


class TestImports:
    def test_a_start_pays_for_no_cryptography(self):
        heavy = "{'jwt', 'argon2', 'cryptography'}"
        code = f"import sys, app.modules.auth.module; sys.exit(bool({heavy} & set(sys.modules)))"

        ended = subprocess.run([sys.executable, "-c", code], check=False)

        assert ended.returncode == 0
