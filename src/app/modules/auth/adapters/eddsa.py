"""Access tokens: JWTs signed with Ed25519, and nothing else. Sealed texts: AES-GCM."""

import base64
import json
import os
from typing import Any, ClassVar, Literal
from uuid import UUID

import jwt
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.kernel.keys import Keyring
from app.modules.auth.domain import Claims

ISSUER = AUDIENCE = "insula"
ALGORITHM = "EdDSA"
SIGNING_LABEL, SEALING_LABEL = "token-signing", "refresh-sealing"
NONCE_BYTES = 12


class Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly these claims, each exactly once, each of exactly this type."""

    iss: Literal["insula"]
    aud: Literal["insula"]
    sub: UUID
    sid: UUID
    ver: int
    iat: int
    exp: int
    jti: str


class EddsaSigner:
    """Signs with the newest secret, reads what any of the secrets signed.

    A header is ours when it says what we write, word for word: no other algorithm, no key by URL
    or by value, no critical extension. ``kid`` is looked up in a dict and used for nothing else.
    """

    _options: ClassVar[Any] = {
        "require": list(Payload.__struct_fields__),
        "strict_aud": True,
        # Time is the service's clock, not this library's.
        "verify_exp": False,
        "verify_iat": False,
    }

    def __init__(self, keys: Keyring) -> None:
        self._key_id = keys.current
        self._private = _private_key(keys, keys.current)
        self._public: dict[str, Ed25519PublicKey] = {
            key_id: _private_key(keys, key_id).public_key() for key_id in keys.ids
        }
        self._seals = {
            key_id: AESGCM(keys.derive(SEALING_LABEL, key_id=key_id)) for key_id in keys.ids
        }

    def sign(self, claims: Claims) -> str:
        return jwt.encode(
            {"iss": ISSUER, "aud": AUDIENCE, **msgspec.to_builtins(claims)},
            self._private,
            algorithm=ALGORITHM,
            headers={"kid": self._key_id},
        )

    def read(self, token: bytes) -> Claims | None:
        try:
            key = self._key_for(token)
            jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options=self._options,
            )
            found = msgspec.convert(_once_each(token.split(b".")[1]), Payload)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, KeyError, RecursionError):
            return None
        return Claims(found.sub, found.sid, found.ver, found.iat, found.exp, found.jti)

    def seal(self, text: str, context: bytes) -> str:
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._seals[self._key_id].encrypt(nonce, text.encode(), context)
        return f"{self._key_id}:{base64.b64encode(sealed).decode()}"

    def unseal(self, sealed: str, context: bytes) -> str | None:
        key_id, _, text = sealed.partition(":")
        try:
            raw = base64.b64decode(text, validate=True)
            nonce, body = raw[:NONCE_BYTES], raw[NONCE_BYTES:]
            return self._seals[key_id].decrypt(nonce, body, context).decode()
        except (InvalidTag, ValueError, KeyError):
            return None

    def _key_for(self, token: bytes) -> Ed25519PublicKey:
        header, _, signature = token.split(b".")
        found = _once_each(header)
        if _encode(_decode(signature)) != signature:
            raise ValueError("the signature is not in its one canonical form")
        if found != {"alg": ALGORITHM, "typ": "JWT", "kid": found.get("kid")}:
            raise ValueError("not a header that we write")
        return self._public[str(found["kid"])]


def _private_key(keys: Keyring, key_id: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(keys.derive(SIGNING_LABEL, key_id=key_id))


def _once_each(segment: bytes) -> dict[str, Any]:
    """Read a JSON object in which no name stands twice: readers would differ on what it says."""
    found: Any = json.loads(_decode(segment), object_pairs_hook=_without_repeats)
    return dict(found)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _decode(segment: bytes) -> bytes:
    return base64.b64decode(segment + b"=" * (-len(segment) % 4), altchars=b"-_", validate=True)


def _encode(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
