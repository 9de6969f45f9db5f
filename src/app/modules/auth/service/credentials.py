"""Checks and hashes what a person proves themselves with."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress

from app.kernel.errors import TooMany
from app.modules.auth.api import InvalidCredentials
from app.modules.auth.domain import Bucket, Credential, Verdict, prelogin_salt
from app.modules.auth.ports import SecretHasher
from app.modules.auth.service.strikes import StrikeBook


class CredentialCheck:
    """Slow hashes behind strikes. A wrong secret and an unknown account look and last the same."""

    def __init__(self, hasher: SecretHasher, strikes: StrikeBook, salt_key: bytes) -> None:
        self._hasher = hasher
        self._strikes = strikes
        self._salt_key = salt_key

    def salt_for(self, mail: str) -> str:
        return prelogin_salt(self._salt_key, mail)

    def attempt(self, buckets: Sequence[Bucket]) -> AbstractContextManager[None]:
        return self._strikes.attempt(buckets)

    async def hash(self, credential: Credential) -> str:
        return await self._hasher.hash(credential.secret)

    async def check(
        self, credential: Credential, stored: str | None, buckets: Sequence[Bucket]
    ) -> str | None:
        """Refuse a wrong secret. Returns a hash by today's parameters if the stored one is not."""
        with self._strikes.attempt(buckets):
            verdict = await self._hasher.verify(stored, credential.secret)
            if verdict is Verdict.WRONG:
                raise InvalidCredentials
        fresh = None
        if verdict is Verdict.OUTDATED:
            # A busy moment is no reason to refuse a right password: the next login tries again.
            with suppress(TooMany):
                fresh = await self._hasher.hash(credential.secret)
        return fresh
