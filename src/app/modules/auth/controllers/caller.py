"""Who is calling: the principal of a request, the network it comes from, whether it is local."""

from typing import Any

from litestar.di import Provide
from litestar.types import Scope

from app.kernel.module import Provider
from app.modules.auth.api import Authenticator, Principal, bearer_token
from app.modules.auth.api import Scope as KeyScope
from app.modules.auth.domain import ip_prefix, is_loopback

READING = frozenset({"GET", "HEAD"})
FORWARDED = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"})


def principal_of(authenticator: Authenticator) -> Provide:
    """Provide ``principal`` to every handler of the house, and see to it that it may be there.

    A handler names what it takes in ``opt={"scope": ...}``. By itself it takes ``read`` to look
    (GET, HEAD) and ``full`` for anything else, WebSockets included.
    """

    async def provide(scope: Scope) -> Principal:
        token = bearer_token(list(scope["headers"]))
        principal = authenticator.recall(token) or await authenticator.authenticate(token)
        principal.require(_wanted(scope))
        return principal

    return Provider(provide)


def network_of(connection: Any) -> str:
    """The network that a request or a socket comes from."""
    return ip_prefix(connection.client.host if connection.client else None)


def is_local(scope: Scope) -> bool:
    """Whether a process of this machine asks for itself, and not for somebody behind a proxy."""
    client = scope["client"]
    if client is None or not is_loopback(client[0]):
        return False
    return not any(name in FORWARDED for name, _ in scope["headers"])


def _wanted(scope: Scope) -> KeyScope:
    by_method: KeyScope = "read" if scope.get("method") in READING else "full"
    wanted: KeyScope = scope["route_handler"].opt.get("scope", by_method)
    return wanted
