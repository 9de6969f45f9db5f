"""HTTP to a server whose URL a user chose.

What may be connected to is decided on the address of each connection, after the name was looked up.
So a name that leads elsewhere the next time it is asked for gains nothing.
"""

import socket

import aiohttp

from app.kernel import log
from app.modules.routing.adapters.aiohttp import KEEP_S, AiohttpClient
from app.modules.routing.domain.addresses import is_forbidden, peer_address

_log = log.get("routing")


class AddressRefused(OSError):
    """The name leads to an address that this URL may not lead to."""


class GuardedClient(AiohttpClient):
    """``may_be_private``: the URL is the installation owner's."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        answer_limit_bytes: int,
        max_connections: int,
        may_be_private: bool,
    ) -> None:
        super().__init__(
            name, base_url, answer_limit_bytes=answer_limit_bytes, max_connections=max_connections
        )
        self._may_be_private = may_be_private

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections,
                    keepalive_timeout=KEEP_S,
                    ttl_dns_cache=10,
                    socket_factory=self._socket,
                ),
                headers={"content-type": "application/json", "accept-encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept"),
            )
        return self._opened

    def _socket(self, found: aiohttp.AddrInfoType) -> socket.socket:
        """Make the socket of a connection, unless it may not be connected to its address."""
        family, kind, protocol, _, peer = found
        if is_forbidden(peer_address(str(peer[0])), may_be_private=self._may_be_private):
            _log.warning("routing.address-refused", upstream=self._name, address=peer[0])
            raise AddressRefused("the address is not allowed")
        return socket.socket(family, kind, protocol)
