"""The wire of auth. Times are integer milliseconds since 1970."""

from datetime import UTC, date, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from app.modules.auth.api import Scope
from app.modules.auth.domain import (
    Credential,
    KeyTerms,
    TokenPair,
    credential_of,
)
from app.modules.auth.models import ApiKeyRow, SessionRow, UserRow

# PostgreSQL keeps no NUL, and nobody can read the others.
Label = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
ModelName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Mail = Annotated[str, Meta(min_length=3, max_length=254)]
Password = Annotated[str, Meta(max_length=1024, description="8 to 1024 bytes.")]
AuthKey = Annotated[str, Meta(max_length=128, description="32 to 64 derived bytes, in base64.")]
Keyring = Annotated[
    str,
    Meta(
        max_length=16_384,
        pattern=r"^[A-Za-z0-9+/_-]+={0,2}$",
        description="Keys wrapped by the client, in base64. The server cannot read them.",
    ),
]
RefreshToken = Annotated[str, Meta(min_length=1, max_length=512)]
Milliseconds = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]


class RegisterCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send ``password``, or an ``auth_key`` that the client derived from one (``prelogin``)."""

    email: Mail
    password: Password | None = None
    auth_key: AuthKey | None = None
    keyring: Keyring | None = None
    device_name: Label | None = None

    def credential(self) -> Credential:
        return credential_of(self.password, self.auth_key)


class LoginCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send ``password`` or ``auth_key``, whichever the account was registered with."""

    email: Mail
    password: Password | None = None
    auth_key: AuthKey | None = None
    device_name: Label | None = None

    def credential(self) -> Credential:
        return credential_of(self.password, self.auth_key)


class PreloginCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose ``auth_key`` is to be derived."""

    email: Mail


class PreloginRead(msgspec.Struct, frozen=True):
    """How a client derives ``auth_key`` from a password. The same for ever for an address."""

    salt: str
    kdf: Literal["argon2id"] = "argon2id"
    memory_kib: int = 65_536
    iterations: int = 3
    parallelism: int = 1


class RefreshCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token of the last answer. It is good for one use."""

    refresh_token: RefreshToken


class AuthTokens(msgspec.Struct, frozen=True):
    """``expires_at`` is when ``access_token`` ends; ``refresh_token`` brings the next pair."""

    access_token: str
    refresh_token: str
    expires_at: int

    @classmethod
    def of(cls, pair: TokenPair) -> "AuthTokens":
        return cls(pair.access_token, pair.refresh_token, milliseconds(pair.expires_at))


class UserProfile(msgspec.Struct, frozen=True):
    """The account that is asking."""

    id: UUID
    email: str
    tier: Literal["free", "pro", "power", "team"] = "free"

    @classmethod
    def of(cls, user: UserRow) -> "UserProfile":
        return cls(user.id, user.email)


class PasswordPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Passwords, or auth keys in an account that has one.

    ``current`` may be left out only while the account has no password, as the first owner's has.
    """

    new: Password
    current: Password | None = None
    keyring: Keyring | None = None


class KeyringRead(msgspec.Struct, frozen=True):
    """What the client stored, unchanged."""

    keyring: str | None


class SessionRead(msgspec.Struct, frozen=True):
    """One signed-in device."""

    id: UUID
    device_name: str
    created_at: int
    last_used_at: int
    expires_at: int
    is_current: bool

    @classmethod
    def of(cls, row: SessionRow, *, current: UUID) -> "SessionRead":
        return cls(
            row.id,
            row.device_name,
            milliseconds(row.created_at),
            milliseconds(row.last_used_at),
            milliseconds(row.expires_at),
            row.id == current,
        )


class ApiKeyCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``full`` may everything, ``read`` look, ``inference`` call models, ``metrics`` be scraped.

    Without ``models`` a key may use every model that its maker may use.
    """

    name: Label
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)]
    expires_at: Milliseconds | None = None
    models: Annotated[list[ModelName], Meta(min_length=1, max_length=200)] | None = None

    def terms(self) -> KeyTerms:
        return KeyTerms(
            name=self.name,
            scopes=frozenset(self.scopes),
            models=None if self.models is None else frozenset(self.models),
            expires_at=None if self.expires_at is None else moment(self.expires_at),
        )


class ApiKeyRead(msgspec.Struct, frozen=True):
    """An API key, without its secret. ``last_used_on`` is a day in UTC."""

    id: UUID
    public_id: str
    name: str
    scopes: list[str]
    models: list[str] | None
    created_at: int
    expires_at: int | None
    last_used_on: date | None

    @classmethod
    def of(cls, row: ApiKeyRow) -> "ApiKeyRead":
        return cls(
            row.id,
            row.public_id,
            row.name,
            row.scopes,
            row.models,
            milliseconds(row.created_at),
            None if row.expires_at is None else milliseconds(row.expires_at),
            row.last_used_on,
        )


class ApiKeyCreated(msgspec.Struct, frozen=True):
    """``key`` is shown this once, and cannot be had again."""

    key: str
    api_key: ApiKeyRead

    @classmethod
    def of(cls, row: ApiKeyRow, key: str) -> "ApiKeyCreated":
        return cls(key, ApiKeyRead.of(row))


def milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
