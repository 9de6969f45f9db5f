"""From one secret to every key: what is sent, what wraps, and what is derived."""

import base64
import binascii
import hmac
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from insula_vault.aead import KEY_BYTES
from insula_vault.encoding import derived_id, pack
from insula_vault.envelope import open_sealed, seal
from insula_vault.errors import DerivationRefused, IntegrityError, SecretRefused

SECRET_MIN_BYTES, SECRET_MAX_BYTES = 8, 1024
SALT_MIN_BYTES, SALT_MAX_BYTES = 16, 64
# A server that could choose less would learn the secret from auth_key by guessing.
MEMORY_MIN_KIB, MEMORY_MAX_KIB = 65_536, 1_048_576
ITERATIONS_MIN, ITERATIONS_MAX = 3, 16
LANES_MIN, LANES_MAX = 1, 16
LABEL = "insula-vault/1"
KEYRING_KEY_ID = "enc_key"
KEYRING_BOUND = ("keyring",)


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a secret becomes keys: the salt and the costs of argon2id, as prelogin tells them."""

    salt: bytes
    memory_kib: int = 65_536
    iterations: int = 3
    parallelism: int = 1

    def __post_init__(self) -> None:
        """Refuse costs below the floor, whoever asks for them."""
        limits = (
            ("memory_kib", self.memory_kib, MEMORY_MIN_KIB, MEMORY_MAX_KIB),
            ("iterations", self.iterations, ITERATIONS_MIN, ITERATIONS_MAX),
            ("parallelism", self.parallelism, LANES_MIN, LANES_MAX),
            ("salt bytes", len(self.salt), SALT_MIN_BYTES, SALT_MAX_BYTES),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:
                raise DerivationRefused(
                    f"The server asks for {name} = {value}; {least} to {most} is safe. Do not "
                    "log in there before you know why."
                )

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Derivation":
        """Read an answer of prelogin."""
        costs = [answer.get(name) for name in ("memory_kib", "iterations", "parallelism")]
        if answer.get("kdf") != "argon2id" or any(type(cost) is not int for cost in costs):
            raise DerivationRefused("The server asks for a derivation that is not argon2id.")
        try:
            salt = base64.b64decode(str(answer.get("salt")), validate=True)
        except (binascii.Error, ValueError):
            raise DerivationRefused("The server's salt is not base64.") from None
        return cls(salt, *(int(cost or 0) for cost in costs))


@dataclass(frozen=True, slots=True)
class SplitKeys:
    """Two keys of one secret. Neither tells anything about the other."""

    auth_key: bytes = field(repr=False)
    """32 bytes that log in. The server gets them."""
    enc_key: bytes = field(repr=False)
    """32 bytes that wrap the root key. They never leave the device."""


def split(secret: str, derivation: Derivation) -> SplitKeys:
    """Stretch a secret with argon2id and split it. Takes about a quarter of a second."""
    stretched = Argon2id(
        salt=derivation.salt,
        length=KEY_BYTES,
        iterations=derivation.iterations,
        lanes=derivation.parallelism,
        memory_cost=derivation.memory_kib,
    ).derive(_secret_bytes(secret))
    return SplitKeys(hkdf(stretched, LABEL, "auth_key"), hkdf(stretched, LABEL, "enc_key"))


def hkdf(key: bytes, *info: str | bytes, salt: bytes | None = None) -> bytes:
    """HKDF-SHA-256 to 32 bytes. ``info`` is a list: its parts cannot run into each other."""
    return HKDF(SHA256(), KEY_BYTES, salt, pack(*info)).derive(key)


class RootKey:
    """The key that all others of an account are derived from. It is random and outlives secrets."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"A root key has {KEY_BYTES} bytes.")
        self._secret = secret

    @classmethod
    def new(cls) -> "RootKey":
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def unwrap(cls, keyring: str, enc_key: bytes) -> "RootKey":
        """Open what ``wrap`` made; IntegrityError when the server shows another keyring."""
        try:
            sealed = base64.b64decode(keyring, validate=True)
        except (binascii.Error, ValueError):
            raise IntegrityError("The server's keyring is not base64.") from None
        return cls(open_sealed(enc_key, sealed, KEYRING_BOUND))

    def wrap(self, enc_key: bytes) -> str:
        """The keyring: this key, sealed for a secret, in base64."""
        sealed = seal(enc_key, self._secret, KEYRING_BOUND, key_id=KEYRING_KEY_ID)
        return base64.b64encode(sealed).decode()

    def reveal(self) -> bytes:
        """The key itself, for the key store of the operating system and nowhere else."""
        return self._secret

    def derive(self, purpose: str, *context: str) -> bytes:
        """32 bytes for one purpose."""
        return hkdf(self._secret, LABEL, purpose, *context)

    def id_for(self, purpose: str, *context: str) -> str:
        """A record id that only the account's own devices can tell from a random one."""
        return derived_id(self.derive("id", purpose, *context))

    def tag(self, collection: str, name: str, value: str) -> str:
        """A value that the server may compare for equality, and for nothing else."""
        key = self.derive("tag", collection, name)
        return hmac.digest(key, value.encode(), "sha256")[:16].hex()

    def __repr__(self) -> str:
        return "RootKey(...)"

    def __reduce__(self) -> str:
        raise TypeError("A root key is not pickled: wrap it.")


def _secret_bytes(text: str) -> bytes:
    """One secret has one form, however it was typed: NFC, in UTF-8."""
    try:
        secret = unicodedata.normalize("NFC", text).encode()
    except UnicodeEncodeError:
        raise SecretRefused("A secret is text.") from None
    if not SECRET_MIN_BYTES <= len(secret) <= SECRET_MAX_BYTES:
        raise SecretRefused(
            f"Use a secret of {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes of text."
        )
    return secret
