"""Chooses what auth needs outside, and imports it when it is first needed, in a thread.

argon2, PyJWT and cryptography cost a twentieth of a second, which no start should pay.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from app.kernel.keys import Keyring
from app.modules.auth.domain import Claims, Verdict
from app.modules.auth.ports import SecretHasher, TokenSigner
from app.modules.auth.settings import AuthSettings

if TYPE_CHECKING:
    from app.modules.auth.adapters.argon2id import Argon2idHasher
    from app.modules.auth.adapters.eddsa import EddsaSigner

T = TypeVar("T")


def open_hasher(settings: AuthSettings, keys: Keyring) -> SecretHasher:
    def make() -> "Argon2idHasher":
        from app.modules.auth.adapters.argon2id import Argon2idHasher

        return Argon2idHasher(settings, keys)

    return LateHasher(make)


def open_signer(keys: Keyring) -> TokenSigner:
    def make() -> "EddsaSigner":
        from app.modules.auth.adapters.eddsa import EddsaSigner

        return EddsaSigner(keys)

    return LateSigner(make)


class Late(Generic[T]):
    """Something that is made by the first who asks for it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self.made: T | None = None

    async def get(self) -> T:
        if self.made is None:
            async with self._making:
                if self.made is None:
                    self.made = await asyncio.to_thread(self._make)
        return self.made


class LateHasher:
    def __init__(self, make: "Callable[[], Argon2idHasher]") -> None:
        self._late = Late(make)

    async def hash(self, secret: bytes) -> str:
        return await (await self._late.get()).hash(secret)

    async def verify(self, stored: str | None, secret: bytes) -> Verdict:
        return await (await self._late.get()).verify(stored, secret)

    def close(self) -> None:
        if self._late.made is not None:
            self._late.made.close()


class LateSigner:
    def __init__(self, make: "Callable[[], EddsaSigner]") -> None:
        self._late = Late(make)

    async def sign(self, claims: Claims) -> str:
        return (await self._late.get()).sign(claims)

    async def read(self, token: bytes) -> Claims | None:
        return (await self._late.get()).read(token)

    async def seal(self, text: str, context: bytes) -> str:
        return (await self._late.get()).seal(text, context)

    async def unseal(self, sealed: str, context: bytes) -> str | None:
        return (await self._late.get()).unseal(sealed, context)
