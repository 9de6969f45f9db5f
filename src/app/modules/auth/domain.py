"""Decisions of auth: mails, secrets, keys, scopes, salts, refreshing. No clock, no I/O."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import math
import re
import unicodedata
import zlib
from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from app.kernel.errors import Invalid

CredentialKind = Literal["password", "auth_key"]
Role = Literal["owner", "member"]

MAIL_LIMIT_CHARS = 254
PASSWORD_MIN_BYTES, PASSWORD_MAX_BYTES = 8, 1024
AUTH_KEY_MIN_BYTES, AUTH_KEY_MAX_BYTES = 32, 64
BOOTSTRAP_MIN_CHARS, BOOTSTRAP_MAX_CHARS = 32, 1024
SALT_BYTES = 16
UNKNOWN_NETWORK = "unknown"
REPEAT_WINDOW = timedelta(seconds=30)

KEY_PREFIX = "isk_"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PUBLIC_ID_CHARS, SECRET_CHARS, CHECKSUM_CHARS = 11, 43, 6

_KEY_SHAPE = re.compile(r"(isk_[0-9A-Za-z]{11}_[0-9A-Za-z]{43})_([0-9A-Za-z]{6})", re.ASCII)
_MAIL_SHAPE = re.compile(r"[^@\s]+@[^@\s]+")


class MailRefused(Invalid):
    """This is not a mail address."""

    title = "Mail address refused"


class PasswordRefused(Invalid):
    """Too short, too long, or no text."""

    title = "Password refused"


class AuthKeyRefused(Invalid):
    """Not base64, or not the length of a derived key."""

    title = "Auth key refused"


class CredentialUnclear(Invalid):
    """Neither a password nor an auth_key, or both."""

    title = "Credential unclear"


class Credential(msgspec.Struct, frozen=True):
    """What a person proves themselves with, ready to be hashed."""

    kind: CredentialKind
    secret: bytes


class Device(msgspec.Struct, frozen=True):
    """Where a session is opened: the name the client gives, and the network it calls from."""

    name: str
    ip_prefix: str


class Lifetimes(msgspec.Struct, frozen=True):
    """How long tokens are valid. A session ends when it was not refreshed for ``refresh``."""

    access: timedelta
    refresh: timedelta


class Claims(msgspec.Struct, frozen=True):
    """What an access token says. Times are seconds since 1970."""

    sub: UUID
    sid: UUID
    ver: int
    iat: int
    exp: int
    jti: str

    def is_valid_at(self, now: datetime) -> bool:
        return self.iat <= now.timestamp() < self.exp


class Grant(msgspec.Struct, frozen=True):
    """A session that was opened or continued, before its access token is signed.

    ``ended`` are the sessions that had to go for it.
    """

    user_id: UUID
    session_id: UUID
    version: int
    refresh_token: str
    ended: tuple[UUID, ...] = ()


class TokenPair(msgspec.Struct, frozen=True):
    """What a client holds: a short access token, and the refresh token that renews it."""

    access_token: str
    refresh_token: str
    expires_at: datetime


class KeyTerms(msgspec.Struct, frozen=True):
    """What a new API key is for."""

    name: str
    scopes: frozenset[str]
    models: frozenset[str] | None
    expires_at: datetime | None


class Allowance(msgspec.Struct, frozen=True):
    """How many strikes are ``free``, and how fast one is forgotten."""

    free: int
    recovery_s: float
    max_wait_s: float


# A network has many people in it, an account one. A network that an account was signed in to from
# has strikes of its own there: whoever guesses from elsewhere does not slow its owner down.
NETWORK_ALLOWANCE = Allowance(free=30, recovery_s=10.0, max_wait_s=60.0)
ACCOUNT_ALLOWANCE = Allowance(free=5, recovery_s=60.0, max_wait_s=60.0)


class Bucket(msgspec.Struct, frozen=True):
    """What strikes are counted by."""

    key: str
    allowance: Allowance


class Strikes(msgspec.Struct, frozen=True):
    """Failed attempts, and the moment of the last one in seconds of any steady clock."""

    count: float = 0.0
    at_s: float = 0.0

    def wait_s(self, allowance: Allowance, now_s: float) -> float:
        """How long the next attempt has to wait: twice as long with each strike, up to a limit."""
        over = math.ceil(self._left(allowance, now_s)) - allowance.free
        if over < 0:
            return 0.0
        pause_s = min(allowance.max_wait_s, float(2 ** min(over, 32)))
        return max(0.0, self.at_s + pause_s - now_s)

    def one_more(self, allowance: Allowance, now_s: float) -> "Strikes":
        return Strikes(self._left(allowance, now_s) + 1, now_s)

    def one_less(self) -> "Strikes":
        return Strikes(max(0.0, self.count - 1), self.at_s)

    def _left(self, allowance: Allowance, now_s: float) -> float:
        return max(0.0, self.count - (now_s - self.at_s) / allowance.recovery_s)


class Verdict(StrEnum):
    """What a hash says about a secret. ``OUTDATED`` is right, by parameters we no longer use."""

    WRONG = "wrong"
    RIGHT = "right"
    OUTDATED = "outdated"


class RefreshStep(StrEnum):
    """What to do with a refresh token that was presented."""

    ROTATE = "rotate"
    REPEAT = "repeat"
    REFUSE = "refuse"
    REVOKE = "revoke"


def normal_mail(text: str) -> str:
    """Write an address the one way it is stored: case-folded, NFC."""
    mail = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    if len(mail) > MAIL_LIMIT_CHARS or not _MAIL_SHAPE.fullmatch(mail) or not mail.isprintable():
        raise MailRefused("Give one address of the form name@domain.")
    return mail


def credential_of(password: str | None, auth_key: str | None) -> Credential:
    """Read the one of the two that was sent."""
    if password is not None and auth_key is None:
        return Credential("password", password_bytes(password))
    if auth_key is not None and password is None:
        return Credential("auth_key", auth_key_bytes(auth_key))
    raise CredentialUnclear("Send either password or auth_key.")


def credential_as(kind: str, text: str) -> Credential:
    """Read ``text`` as the kind of credential an account has."""
    if kind == "auth_key":
        return Credential("auth_key", auth_key_bytes(text))
    return Credential("password", password_bytes(text))


def password_bytes(text: str) -> bytes:
    """One password has one form, however it was typed: NFC, in UTF-8."""
    try:
        secret = unicodedata.normalize("NFC", text).encode()
    except UnicodeEncodeError:
        raise PasswordRefused("A password is text.") from None
    if not PASSWORD_MIN_BYTES <= len(secret) <= PASSWORD_MAX_BYTES:
        raise PasswordRefused(f"Use {PASSWORD_MIN_BYTES} to {PASSWORD_MAX_BYTES} bytes of text.")
    return secret


def auth_key_bytes(text: str) -> bytes:
    """Read a client-derived key, in either alphabet of base64, padded or not."""
    digits = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        secret = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise AuthKeyRefused("auth_key is base64.") from None
    if not AUTH_KEY_MIN_BYTES <= len(secret) <= AUTH_KEY_MAX_BYTES:
        raise AuthKeyRefused(f"auth_key is {AUTH_KEY_MIN_BYTES} to {AUTH_KEY_MAX_BYTES} bytes.")
    return secret


def prelogin_salt(key: bytes, mail: str) -> str:
    """The salt of an address, the same for ever, whether anybody has registered it or not."""
    return base64.b64encode(hmac.digest(key, mail.encode(), "sha256")[:SALT_BYTES]).decode()


def fingerprint(token: bytes) -> str:
    """What is stored of a token. Tokens are random, so that a fast hash is enough."""
    return hashlib.sha256(token).hexdigest()


def format_key(public_entropy: bytes, secret_entropy: bytes) -> str:
    """Write an API key from 8 public and 32 secret random bytes."""
    public_id = _digits(int.from_bytes(public_entropy), PUBLIC_ID_CHARS)
    secret = _digits(int.from_bytes(secret_entropy), SECRET_CHARS)
    body = f"{KEY_PREFIX}{public_id}_{secret}"
    return f"{body}_{_checksum(body)}"


def public_id_of(key: str) -> str:
    """The part of an API key that lists may show."""
    return key.split("_")[1]


def is_well_formed_key(key: str) -> bool:
    """Whether the checksum fits: a mistyped key is told from a wrong one without a query."""
    found = _KEY_SHAPE.fullmatch(key)
    return found is not None and _checksum(found[1]) == found[2]


def is_jwt_shaped(token: bytes) -> bool:
    """Whether it begins like base64 of a JSON object, as every token that we sign does."""
    return token.startswith(b"eyJ")


def bootstrap_flaw(key: str) -> str | None:
    """Say why ``key`` cannot be a key of this house, if it cannot."""
    if not BOOTSTRAP_MIN_CHARS <= len(key) <= BOOTSTRAP_MAX_CHARS:
        return f"needs {BOOTSTRAP_MIN_CHARS} to {BOOTSTRAP_MAX_CHARS} characters"
    if not key.isascii() or not key.isprintable() or " " in key:
        return "may hold visible ASCII characters only, since it travels in a header"
    if is_jwt_shaped(key.encode()) or (key.startswith(KEY_PREFIX) and not is_well_formed_key(key)):
        return "looks like another kind of token: begin it with something else"
    return None


def scopes_out_of_reach(
    wanted: Collection[str], held: Collection[str], *, is_owner: bool
) -> list[str]:
    """Scopes that a holder of ``held`` cannot hand on. The house's metrics are its owner's."""
    reachable = set(wanted if "full" in held else held)
    if not is_owner:
        reachable.discard("metrics")
    return sorted(set(wanted) - reachable)


def refresh_step(
    now: datetime, expires_at: datetime, used_at: datetime | None, *, is_successor_used: bool
) -> RefreshStep:
    """Decide on a token of a live session.

    A client whose answer was lost asks again and gets the same successor. Whoever asks later, or
    after the successor was used, holds a copy: then nobody in the family can be trusted.
    """
    if now >= expires_at:
        return RefreshStep.REFUSE
    if used_at is None:
        return RefreshStep.ROTATE
    if now - used_at <= REPEAT_WINDOW and not is_successor_used:
        return RefreshStep.REPEAT
    return RefreshStep.REVOKE


def network_buckets(prefix: str) -> tuple[Bucket, ...]:
    """A private network says nothing about who calls: a proxy may stand in it."""
    if not _is_public(prefix):
        return ()
    return (Bucket(f"network {prefix}", NETWORK_ALLOWANCE),)


def login_buckets(mail: str, prefix: str, *, was_here: bool) -> tuple[Bucket, ...]:
    """What an attempt to log in counts against, known account or not."""
    place = prefix if was_here and _is_public(prefix) else "elsewhere"
    account = Bucket(f"account {mail} {place}", ACCOUNT_ALLOWANCE)
    return (*network_buckets(prefix), account)


def ip_prefix(host: str | None) -> str:
    """The network of an address: /24 of IPv4, /64 of IPv6. What is no address is one network."""
    try:
        address = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return UNKNOWN_NETWORK
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    length = 24 if address.version == 4 else 64
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address, is this machine by definition (RFC 6761)."""
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_foreign_page(origin: str, host: str) -> bool:
    """Whether a browser sent this for a page that is not of this machine.

    Such a page needs no key to reach a server on loopback: it posts there (``Origin`` tells), or
    has its own name resolve to 127.0.0.1 and reads what is there (``Host`` tells).
    """
    try:
        page, asked = urlsplit(origin), urlsplit(f"//{host}")
        is_elsewhere = page.scheme in {"http", "https"} and not is_loopback(page.hostname or "")
        is_renamed = host != "" and not is_loopback(asked.hostname or "")
    except ValueError:
        return True
    return origin == "null" or is_elsewhere or is_renamed


def _digits(number: int, width: int) -> str:
    text = ""
    for _ in range(width):
        number, digit = divmod(number, len(ALPHABET))
        text = ALPHABET[digit] + text
    return text


def _checksum(body: str) -> str:
    return _digits(zlib.crc32(body.encode()), CHECKSUM_CHARS)


def _is_public(prefix: str) -> bool:
    return prefix != UNKNOWN_NETWORK and ipaddress.ip_network(prefix).is_global
