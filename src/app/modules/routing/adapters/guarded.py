"""HTTP to a server whose URL a user chose."""

import aiohttp

from app.modules.routing.adapters.aiohttp import KEEP_S, AiohttpClient
from app.outbound.sockets import guarded_socket


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
        self._make_socket = guarded_socket(name, may_be_private=may_be_private)

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections,
                    keepalive_timeout=KEEP_S,
                    ttl_dns_cache=10,
                    socket_factory=self._make_socket,
                ),
                headers={"content-type": "application/json", "accept-encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept"),
            )
        return self._opened
