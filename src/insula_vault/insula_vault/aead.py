"""The two ciphers that bodies are sealed with."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher as RawCipher
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV, ChaCha20Poly1305

from insula_vault.errors import AlgorithmMissing, IntegrityError

KEY_BYTES = 32
TAG_BYTES = 16
NONCE_BYTES = 16
BLOCK_BYTES = 64
_CONSTANTS = b"expand 32-byte k"
_ZEROS = bytes(BLOCK_BYTES)
# The highest bit of each of eight words of 32 bits, and all the others.
_TOPS = int.from_bytes(b"\0\0\0\x80" * 8, "little")
_RESTS = _TOPS ^ (1 << 256) - 1


class Cipher(Protocol):
    """Authenticated encryption with a key inside. The tag follows the ciphertext."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class HChaCha20:
    """Derives 32 bytes from a key and 16 bytes (draft-irtf-cfrg-xchacha-03, 2.2).

    ChaCha20 adds its initial state to what its rounds have made. HChaCha20 does not, and gives
    only words whose initial state is public: here it is subtracted again. Making the cipher costs
    ten times what a block does, so it is made once, and lent to one thread at a time.
    """

    def __init__(self, key: bytes) -> None:
        cipher = RawCipher(algorithms.ChaCha20(key, bytes(NONCE_BYTES)), mode=None)
        self._blocks = cipher.encryptor()
        self._lock = Lock()

    def derive(self, nonce: bytes) -> bytes:
        with self._lock:
            self._blocks.reset_nonce(nonce)
            block = self._blocks.update(_ZEROS)
        return _less(block[:16] + block[48:], _CONSTANTS + nonce)


class XChaCha20Poly1305:
    """ChaCha20-Poly1305 with nonces so long that random ones never meet (24 bytes)."""

    def __init__(self, key: bytes) -> None:
        self._derived = HChaCha20(key)

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
        return ChaCha20Poly1305(self._derived.derive(nonce[:16])), bytes(4) + nonce[16:]


def _less(words: bytes, others: bytes) -> bytes:
    """Eight words of 32 bits less eight others, at once.

    With its top bit set no word borrows of the next one; what that bit must be is put right after.
    """
    one, other = int.from_bytes(words, "little"), int.from_bytes(others, "little")
    apart = ((one | _TOPS) - (other & _RESTS)) ^ (~(one ^ other) & _TOPS)
    return apart.to_bytes(32, "little")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One way to seal. ``code`` is its name in an envelope and never changes."""

    code: int
    name: str
    nonce_bytes: int
    cipher: Callable[[bytes], Cipher]

    def seal(self, key: bytes, nonce: bytes, data: bytes, bound: bytes) -> bytes:
        return self.keyed(key).encrypt(nonce, data, bound)

    def open(self, key: bytes, nonce: bytes, data: bytes, bound: bytes) -> bytes:
        """IntegrityError when data, nonce, key or anything bound is not what was sealed."""
        return opened(self.keyed(key), nonce, data, bound)

    def keyed(self, key: bytes) -> Cipher:
        """For whoever opens many bodies of one key."""
        try:
            return self.cipher(key)
        except UnsupportedAlgorithm:
            raise AlgorithmMissing(
                f"{self.name} needs OpenSSL 3.2 or newer; XChaCha20-Poly1305 works everywhere."
            ) from None


def opened(cipher: Cipher, nonce: bytes, data: bytes, bound: bytes) -> bytes:
    """IntegrityError as in ``Algorithm.open``."""
    try:
        return cipher.decrypt(nonce, data, bound)
    except InvalidTag:
        raise IntegrityError(
            "A sealed body does not open: it, or what it was bound to, was changed."
        ) from None


XCHACHA20_POLY1305: Final = Algorithm(1, "XChaCha20-Poly1305", 24, XChaCha20Poly1305)
AES_256_GCM_SIV: Final = Algorithm(2, "AES-256-GCM-SIV", 12, AESGCMSIV)
ALGORITHMS: Final = {one.code: one for one in (XCHACHA20_POLY1305, AES_256_GCM_SIV)}
