"""Making an account and signing in, without the server ever seeing the secret."""

from dataclasses import dataclass, field
from typing import Any

from insula_vault.encoding import to_base64
from insula_vault.errors import IntegrityError
from insula_vault.keys import Derivation, RootKey, SplitKeys, split
from insula_vault.wire import Call, Session, Wire

AUTH = "/api/v1/auth"


@dataclass(frozen=True, slots=True)
class Account:
    """Who signed in, and the key that everything of theirs is sealed with."""

    user_id: str
    root: RootKey = field(repr=False)


def register(wire: Wire, email: str, secret: str, device_name: str | None) -> Account:
    """Make an account with a new root key, and sign this device in."""
    keys, root = split(secret, _terms(wire, email)), RootKey.new()
    keyring = root.wrap(keys.enc_key)
    body = _credential(email, keys, device_name) | {"keyring": keyring}
    _sign_in(wire, wire.json(Call("POST", f"{AUTH}/register", json=body, is_repeatable=False)))
    return Account(_user_id(wire), root)


def login(wire: Wire, email: str, secret: str, device_name: str | None) -> Account:
    """Sign this device in and open the account's keyring."""
    keys = split(secret, _terms(wire, email))
    body = _credential(email, keys, device_name)
    _sign_in(wire, wire.json(Call("POST", f"{AUTH}/login", json=body, is_repeatable=False)))
    keyring = wire.json(Call("GET", f"{AUTH}/keyring")).get("keyring")
    if not isinstance(keyring, str):
        raise IntegrityError(
            "The server shows no keyring. The account was made without this kit, or its server "
            "has lost or hidden the key that everything is sealed with."
        )
    return Account(_user_id(wire), RootKey.unwrap(keyring, keys.enc_key))


def change_secret(wire: Wire, root: RootKey, email: str, old: str, new: str) -> None:
    """Wrap the root key for another secret. Ends the sessions of all other devices."""
    terms = _terms(wire, email)
    before, after = split(old, terms), split(new, terms)
    body = {
        "current": to_base64(before.auth_key),
        "new": to_base64(after.auth_key),
        "keyring": root.wrap(after.enc_key),
    }
    _sign_in(wire, wire.json(Call("PUT", f"{AUTH}/password", json=body, is_repeatable=False)))


def _terms(wire: Wire, email: str) -> Derivation:
    return Derivation.of(wire.json(Call("POST", f"{AUTH}/prelogin", json={"email": email})))


def _credential(email: str, keys: SplitKeys, device_name: str | None) -> dict[str, Any]:
    named = {"device_name": device_name} if device_name else {}
    return {"email": email, "auth_key": to_base64(keys.auth_key), **named}


def _sign_in(wire: Wire, said: dict[str, Any]) -> None:
    wire.session = Session(str(said.get("access_token")), str(said.get("refresh_token", "")))


def _user_id(wire: Wire) -> str:
    return str(wire.json(Call("GET", f"{AUTH}/me")).get("id"))
