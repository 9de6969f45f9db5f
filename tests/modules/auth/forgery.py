"""Tokens that are almost ours: the corpus of A7, modelled on jwt_tool's playbook."""

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.kernel.keys import Keyring
from app.modules.auth.adapters.eddsa import SIGNING_LABEL

Json = dict[str, Any]


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Forger:
    """Knows a genuine token and, where an attack needs it, the signing key itself."""

    def __init__(self, genuine: str, keys: Keyring) -> None:
        self.genuine = genuine
        header, payload, self.signature = genuine.split(".")
        self.header: Json = json.loads(unb64(header))
        self.payload: Json = json.loads(unb64(payload))
        self._private = Ed25519PrivateKey.from_private_bytes(keys.derive(SIGNING_LABEL))

    def public(self, encoding: str) -> bytes:
        key = self._private.public_key()
        if encoding == "raw":
            return key.public_bytes_raw()
        return key.public_bytes(
            getattr(serialization.Encoding, encoding),
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )

    def signed(self, header: str | Json, payload: str | Json) -> str:
        """A token with our own signature on whatever it says."""
        body = ".".join(
            b64((part if isinstance(part, str) else json.dumps(part)).encode())
            for part in (header, payload)
        )
        return f"{body}.{b64(self._private.sign(body.encode()))}"

    def with_header(self, **changes: Any) -> str:
        return self.signed({**self.header, **changes}, self.payload)

    def with_payload(self, **changes: Any) -> str:
        return self.signed(self.header, {**self.payload, **changes})

    def without(self, claim: str) -> str:
        payload = {name: value for name, value in self.payload.items() if name != claim}
        return self.signed(self.header, payload)

    def unsigned(self, header: Json, signature: str = "") -> str:
        parts = (b64(json.dumps(part).encode()) for part in (header, self.payload))
        return ".".join((*parts, signature))

    def hs256(self, secret: bytes) -> str:
        body = self.unsigned({**self.header, "alg": "HS256"})[:-1]
        return f"{body}.{b64(hmac.digest(secret, body.encode(), 'sha256'))}"

    def stranger(self) -> str:
        """Signed by a key of the attacker's, under our key id."""
        ours, self._private = self._private, Ed25519PrivateKey.generate()
        token = self.signed(self.header, self.payload)
        self._private = ours
        return token


def _raw(text: Json) -> str:
    return json.dumps(text)


ATTACKS: dict[str, Callable[[Forger], str]] = {
    # The algorithm.
    "alg none": lambda f: f.unsigned({**f.header, "alg": "none"}),
    "alg None": lambda f: f.unsigned({**f.header, "alg": "None"}),
    "alg NONE with our signature": lambda f: f.unsigned({**f.header, "alg": "NONE"}, f.signature),
    "alg empty": lambda f: f.with_header(alg=""),
    "alg null": lambda f: f.with_header(alg=None),
    "alg list": lambda f: f.with_header(alg=["EdDSA"]),
    "alg lower case": lambda f: f.with_header(alg="eddsa"),
    "alg Ed448": lambda f: f.with_header(alg="Ed448"),
    "alg ES256": lambda f: f.with_header(alg="ES256"),
    "alg missing": lambda f: f.signed({"typ": "JWT", "kid": f.header["kid"]}, f.payload),
    "HS256 with the public key, PEM": lambda f: f.hs256(f.public("PEM")),
    "HS256 with the public key, DER": lambda f: f.hs256(f.public("DER")),
    "HS256 with the public key, raw": lambda f: f.hs256(f.public("raw")),
    "HS256 with no key": lambda f: f.hs256(b""),
    # The key.
    "kid a path": lambda f: f.with_header(kid="../../dev/null"),
    "kid a file": lambda f: f.with_header(kid="/proc/self/environ"),
    "kid SQL": lambda f: f.with_header(kid="' UNION SELECT 'k' --"),
    "kid a URL": lambda f: f.with_header(kid="https://evil.example/key"),
    "kid a command": lambda f: f.with_header(kid="| sleep 5"),
    "kid empty": lambda f: f.with_header(kid=""),
    "kid null": lambda f: f.with_header(kid=None),
    "kid a number": lambda f: f.with_header(kid=0),
    "kid a list": lambda f: f.with_header(kid=[f.header["kid"]]),
    "kid with a NUL": lambda f: f.with_header(kid=f.header["kid"] + "\x00"),
    "kid missing": lambda f: f.signed({"alg": "EdDSA", "typ": "JWT"}, f.payload),
    "jku": lambda f: f.with_header(jku="https://evil.example/jwks.json"),
    "jwk": lambda f: f.with_header(jwk={"kty": "OKP", "crv": "Ed25519", "x": b64(f.public("raw"))}),
    "x5u": lambda f: f.with_header(x5u="https://evil.example/cert.pem"),
    "x5c": lambda f: f.with_header(x5c=["MIIB"]),
    "x5t": lambda f: f.with_header(x5t="AAAA"),
    "another key": lambda f: f.stranger(),
    # The rest of the header.
    "crit": lambda f: f.with_header(crit=["exp"]),
    "crit b64": lambda f: f.with_header(crit=["b64"], b64=False),
    "cty": lambda f: f.with_header(cty="JWT"),
    "zip": lambda f: f.with_header(zip="DEF"),
    "typ another": lambda f: f.with_header(typ="at+jwt"),
    "typ missing": lambda f: f.signed({"alg": "EdDSA", "kid": f.header["kid"]}, f.payload),
    "header twice alg": lambda f: f.signed('{"alg":"none",' + _raw(f.header)[1:], f.payload),
    "header a list": lambda f: f.signed(f"[{_raw(f.header)}]", f.payload),
    "header nested deep": lambda f: f"{b64(b'{' + b'[' * 2900)}.{b64(b'{}')}.{f.signature}",
    # The signature.
    "signature empty": lambda f: f.genuine.rpartition(".")[0] + ".",
    "signature cut": lambda f: f.genuine[:-1],
    "signature zero": lambda f: f.unsigned(f.header, b64(bytes(64))),
    "signature of another": lambda f: f.with_payload(ver=9).rpartition(".")[0] + "." + f.signature,
    "signature padded": lambda f: f.genuine + "==",
    "signature with junk": lambda f: f.genuine[:-8] + "!" + f.genuine[-8:],
    "signature with a newline": lambda f: f.genuine[:-8] + "\n" + f.genuine[-8:],
    "signature not canonical": lambda f: f.genuine[:-1] + chr(ord(f.genuine[-1]) + 1),
    "signature missing": lambda f: f.genuine.rpartition(".")[0],
    "four parts": lambda f: f.genuine + "." + f.signature,
    "five parts": lambda f: f.genuine + "..",
    "payload edited": lambda f: f.unsigned(f.header, f.signature).replace("eyJpc3", "eyJpc4", 1),
    # The claims, under our own signature.
    "iss another": lambda f: f.with_payload(iss="evil"),
    "iss list": lambda f: f.with_payload(iss=["insula"]),
    "aud another": lambda f: f.with_payload(aud="evil"),
    "aud list": lambda f: f.with_payload(aud=["insula", "evil"]),
    "sub no id": lambda f: f.with_payload(sub="owner"),
    "sub SQL": lambda f: f.with_payload(sub="' OR 1=1 --"),
    "sid another": lambda f: f.with_payload(sid=f.payload["sub"]),
    "sub another": lambda f: f.with_payload(sub=f.payload["sid"]),
    "ver older": lambda f: f.with_payload(ver=f.payload["ver"] - 1),
    "ver newer": lambda f: f.with_payload(ver=f.payload["ver"] + 1),
    "ver true": lambda f: f.with_payload(ver=True),
    "ver text": lambda f: f.with_payload(ver="1"),
    "ver huge": lambda f: f.with_payload(ver=10**400),
    "exp passed": lambda f: f.with_payload(exp=f.payload["iat"]),
    "exp a second ago": lambda f: f.with_payload(iat=1, exp=f.payload["iat"] - 1),
    "exp text": lambda f: f.with_payload(exp="never"),
    "exp null": lambda f: f.with_payload(exp=None),
    "exp infinite": lambda f: f.signed(f.header, _raw({**f.payload, "exp": float("inf")})),
    "iat in the future": lambda f: f.with_payload(iat=f.payload["iat"] + 60),
    "nbf in the future": lambda f: f.with_payload(nbf=f.payload["iat"] + 600),
    "tier added": lambda f: f.with_payload(tier="team"),
    "role added": lambda f: f.with_payload(role="owner"),
    "scope added": lambda f: f.with_payload(scope="full"),
    "claim twice": lambda f: f.signed(f.header, '{"sub":"x",' + _raw(f.payload)[1:]),
    "claim twice the same": lambda f: f.signed(f.header, '{"ver":1,' + _raw(f.payload)[1:]),
    "payload a list": lambda f: f.signed(f.header, "[]"),
    "payload no JSON": lambda f: f.signed(f.header, "{"),
    "payload nested": lambda f: f.signed(f.header, json.dumps(f.genuine)),
    **{f"no {claim}": lambda f, claim=claim: f.without(claim) for claim in ("iss", "aud", "sub")},
    **{f"no {claim}": lambda f, claim=claim: f.without(claim) for claim in ("sid", "ver", "jti")},
    **{f"no {claim}": lambda f, claim=claim: f.without(claim) for claim in ("iat", "exp")},
    # Its size and its alphabet.
    "larger than 4 KiB": lambda f: f.with_payload(jti="x" * 4000),
    "larger than 8 KiB": lambda f: f.with_payload(jti="x" * 9000),
    "a prefix alone": lambda f: "eyJ",
    "dots": lambda f: "eyJ..",
    "not base64": lambda f: "eyJ?.???.???",
    "with a NUL": lambda f: f.genuine + "\x00",
    "twice": lambda f: f.genuine + f.genuine,
}
