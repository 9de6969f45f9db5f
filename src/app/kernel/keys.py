"""One master secret, other keys derived from it by HKDF with labels, and what seals with them.

The newest secret writes, older ones still read: rotation is prepending a line.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.kernel.settings import Secret, SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIN_SECRET_CHARS = 32
NONCE_BYTES = 12


class Keyring:
    """Derives keys from the master secrets, newest first. A key id names its master secret."""

    def __init__(self, masters: Sequence[str]) -> None:
        if not masters:
            raise SettingsError("APP_SECRET is empty: give 32 characters or more.")
        for master in masters:
            if len(master) < MIN_SECRET_CHARS:
                raise SettingsError(
                    f"APP_SECRET needs {MIN_SECRET_CHARS} characters or more (a comma separates "
                    "the new one from old ones)."
                )
        self._masters = {hkdf(master.encode(), "key-id", 6).hex(): master for master in masters}

    @property
    def current(self) -> str:
        """The id of the newest secret."""
        return next(iter(self._masters))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all secrets, newest first."""
        return tuple(self._masters)

    def derive(self, label: str, *, key_id: str = "", length: int = 32) -> bytes:
        """Return ``length`` bytes for ``label``; ``KeyError`` for a key id that is not ours."""
        return hkdf(self._masters[key_id or self.current].encode(), label, length)


class AesGcmSeal:
    """Seals by AES-GCM with the newest secret, opens what any of the secrets sealed.

    Each ``label`` has keys of its own. ``context`` is bound, and must be the same to open.

    A sealed text is the id of its secret, a colon, the nonce, and the ciphertext with its tag.
    The cryptography is loaded when something is first sealed: no start should pay for it.
    """

    def __init__(self, keys: Keyring, label: str) -> None:
        self._keys = keys
        self._label = label
        self._ciphers: dict[str, AESGCM] = {}

    def seal(self, text: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        key_id = self._keys.current
        return key_id.encode() + b":" + nonce + self._cipher(key_id).encrypt(nonce, text, context)

    def unseal(self, sealed: bytes, context: bytes) -> bytes | None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - see above

        key_id, _, rest = sealed.partition(b":")
        try:
            cipher = self._cipher(key_id.decode())
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], context)
        except (InvalidTag, ValueError, KeyError):
            return None

    def _cipher(self, key_id: str) -> "AESGCM":
        """Return the cipher of one secret; ``KeyError`` for a key id that is not ours."""
        if key_id not in self._ciphers:
            from cryptography.hazmat.primitives.ciphers import aead  # noqa: PLC0415 - see above

            key = self._keys.derive(self._label, key_id=key_id)
            self._ciphers[key_id] = aead.AESGCM(key)
        return self._ciphers[key_id]


def open_keyring(given: Secret | None, folder: Path) -> Keyring:
    """Use ``given`` (newest first, comma-separated), or the file that the first start made."""
    if given is not None:
        return Keyring([part.strip() for part in given.split(",") if part.strip()])
    path = folder / "secret"
    if not path.exists():
        _write(path, secrets.token_urlsafe(48) + "\n")
    return Keyring(path.read_text().split())


def rotate(folder: Path) -> None:
    """Put a new secret before the ones in the file; old data stays readable by the old ones."""
    path = folder / "secret"
    _write(path, secrets.token_urlsafe(48) + "\n" + path.read_text())


def _write(path: Path, text: str) -> None:
    """Replace the file whole: a crash leaves the old one, and nobody else can ever read either."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600, exist_ok=False)
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def hkdf(master: bytes, label: str, length: int) -> bytes:
    """HKDF with SHA-256, no salt (RFC 5869 sections 2.2 and 2.3)."""
    pseudo_random_key = hmac.digest(bytes(32), master, hashlib.sha256)
    block, output = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(
            pseudo_random_key, block + label.encode() + bytes([counter]), hashlib.sha256
        )
        output += block
    return output[:length]
