"""Sockets for URLs that a user chose.

What may be connected to is decided on the address of each connection, after the name was looked up.
So a name that leads elsewhere the next time it is asked for gains nothing.
"""

import socket
from collections.abc import Callable

import aiohttp

from app.kernel import log
from app.outbound.addresses import is_forbidden, peer_address

_log = log.get("outbound")


class AddressRefused(OSError):
    """The name leads to an address that this URL may not lead to."""


def guarded_socket(
    name: str, *, may_be_private: bool
) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """A socket factory for ``aiohttp.TCPConnector``, for connections to ``name``.

    ``may_be_private``: the URL is the installation owner's.
    """

    def make(found: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, peer = found
        if is_forbidden(peer_address(str(peer[0])), may_be_private=may_be_private):
            _log.warning("outbound.address-refused", name=name, address=peer[0])
            raise AddressRefused("the address is not allowed")
        return socket.socket(family, kind, protocol)

    return make
