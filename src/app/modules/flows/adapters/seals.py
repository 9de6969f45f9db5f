"""Sealed tokens: AES-GCM, with a key of their own from the master secret."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.kernel.keys import Keyring

LABEL = "flows-sealing"
NONCE_BYTES = 12


class AesGcmSeal:
    """Seals with the newest secret, opens what any of the secrets sealed.

    A sealed text is the id of its secret, a colon, the nonce, and the ciphertext with its tag.
    """

    def __init__(self, keys: Keyring) -> None:
        self._key_id = keys.current.encode()
        self._seals = {
            key_id.encode(): AESGCM(keys.derive(LABEL, key_id=key_id)) for key_id in keys.ids
        }

    def seal(self, text: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._seals[self._key_id].encrypt(nonce, text, context)
        return self._key_id + b":" + nonce + sealed

    def unseal(self, sealed: bytes, context: bytes) -> bytes | None:
        key_id, _, rest = sealed.partition(b":")
        try:
            return self._seals[key_id].decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], context)
        except (InvalidTag, ValueError, KeyError):
            return None
