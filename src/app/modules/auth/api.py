"""What other modules may see of auth: the principal of a request, who finds it, and whose it is."""

from datetime import datetime
from typing import Final, Literal, Protocol
from uuid import UUID

import msgspec

from app.kernel.errors import Forbidden, Unauthorized
from app.modules.auth.domain import Role, is_foreign_page

Scope = Literal["full", "read", "inference", "metrics"]

FOREIGN_PAGE: Final = b"isk_foreign_page"


class InvalidCredentials(Unauthorized):
    """No credentials, or not ours, or no longer valid. Says no more than that."""

    title = "Invalid credentials"


class ScopeMissing(Forbidden):
    """The key is valid and not made for this."""

    title = "Scope missing"


class Principal(msgspec.Struct, frozen=True):
    """One caller: a session of a user, or one of the user's API keys.

    ``models`` is the key's allow-list; ``None`` allows every model.
    """

    user_id: UUID
    kind: Literal["session", "key", "anonymous"]
    credential_id: UUID
    role: Role
    scopes: frozenset[str]
    models: frozenset[str] | None = None

    def may(self, scope: Scope) -> bool:
        """``full`` may everything."""
        return scope in self.scopes or "full" in self.scopes

    def require(self, scope: Scope) -> None:
        if not self.may(scope):
            raise ScopeMissing(f"This key lacks the scope {scope!r}.", required_scope=scope)

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


class Profile(msgspec.Struct, frozen=True):
    """An account, as its user may see it."""

    user_id: UUID
    email: str
    role: Role
    created_at: datetime


class Profiles(Protocol):
    """Who users are."""

    async def profile_of(self, user_id: UUID) -> Profile:
        """The account; ``InvalidCredentials`` when it is gone."""
        ...


class Authenticator(Protocol):
    """Turns the token of a request into a principal."""

    def recall(self, token: bytes) -> Principal | None:
        """Answer from memory, without waiting; ``None`` when ``authenticate`` must be asked."""
        ...

    async def authenticate(self, token: bytes) -> Principal:
        """Check a JWT or an API key; ``InvalidCredentials`` if it is not valid now.

        An empty token, or a key that is nobody's, is the anonymous caller, who is let in only
        where that is switched on.
        """
        ...

    async def until_revoked(self, principal: Principal) -> None:
        """Return when the session or the key behind ``principal`` has ended.

        For whoever holds a connection open: close it then (a WebSocket with 4401).
        """
        ...


def bearer_token(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Find the token in raw ASGI headers: ``Authorization: Bearer`` or ``X-API-Key``.

    Without one, a web page from elsewhere does not become the anonymous caller: what is returned
    for it is no valid token anywhere.
    """
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer" and (stripped := token.strip()):
                return stripped
        elif name == b"x-api-key" and (stripped := value.strip()):
            return stripped
    origin, host = _header(headers, b"origin"), _header(headers, b"host")
    return FOREIGN_PAGE if is_foreign_page(origin, host) else b""


def _header(headers: list[tuple[bytes, bytes]], wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), "")
