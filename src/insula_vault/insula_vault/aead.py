"""The two ciphers that bodies are sealed with."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher as RawCipher
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV, ChaCha20Poly1305

from insula_vault.errors import AlgorithmMissing, IntegrityError

KEY_BYTES = 32
TAG_BYTES = 16
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
_WORD = 0xFFFFFFFF


class Cipher(Protocol):
    """Authenticated encryption with a key inside. The tag follows the ciphertext."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Derive 32 bytes from a key and 16 bytes (draft-irtf-cfrg-xchacha-03, 2.2).

    ChaCha20 adds its initial state to what its rounds have made. HChaCha20 does not, and gives
    only words whose initial state is public: here it is subtracted again.
    """
    block = RawCipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    initial = _CONSTANTS + struct.unpack("<4I", nonce)
    mixed = (
        (word - was) & _WORD for word, was in zip(words[:4] + words[12:], initial, strict=True)
    )
    return struct.pack("<8I", *mixed)


class XChaCha20Poly1305:
    """ChaCha20-Poly1305 with nonces so long that random ones never meet (24 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        cipher, short = self._inner(nonce)
        return cipher.encrypt(short, data, associated_data)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Raises InvalidTag, as the ciphers of ``cryptography`` do."""
        cipher, short = self._inner(nonce)
        return cipher.decrypt(short, data, associated_data)

    def _inner(self, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
        if len(nonce) != 24:
            raise ValueError("A nonce of XChaCha20-Poly1305 has 24 bytes.")
        return ChaCha20Poly1305(hchacha20(self._key, nonce[:16])), bytes(4) + nonce[16:]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One way to seal. ``code`` is its name in an envelope and never changes."""

    code: int
    name: str
    nonce_bytes: int
    cipher: Callable[[bytes], Cipher]

    def seal(self, key: bytes, nonce: bytes, data: bytes, bound: bytes) -> bytes:
        return self._with(key).encrypt(nonce, data, bound)

    def open(self, key: bytes, nonce: bytes, data: bytes, bound: bytes) -> bytes:
        """IntegrityError when data, nonce, key or anything bound is not what was sealed."""
        try:
            return self._with(key).decrypt(nonce, data, bound)
        except InvalidTag:
            raise IntegrityError(
                "A sealed body does not open: it, or what it was bound to, was changed."
            ) from None

    def _with(self, key: bytes) -> Cipher:
        try:
            return self.cipher(key)
        except UnsupportedAlgorithm:
            raise AlgorithmMissing(
                f"{self.name} needs OpenSSL 3.2 or newer; XChaCha20-Poly1305 works everywhere."
            ) from None


XCHACHA20_POLY1305: Final = Algorithm(1, "XChaCha20-Poly1305", 24, XChaCha20Poly1305)
AES_256_GCM_SIV: Final = Algorithm(2, "AES-256-GCM-SIV", 12, AESGCMSIV)
ALGORITHMS: Final = {one.code: one for one in (XCHACHA20_POLY1305, AES_256_GCM_SIV)}
