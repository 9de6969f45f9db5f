"""Where a URL that somebody else chose may lead: not into this machine, its network or its cloud.

The rule is applied twice: here to addresses that the URL spells out, and by whoever connects to the
very address that is connected to, since a name may lead elsewhere a moment later.
"""

import re
from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from app.kernel.errors import Invalid

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

# Nobody's server: this host itself, link-local and with it most clouds' metadata, multicast,
# reserved, and the metadata services that lie elsewhere.
NEVER: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle Cloud
        "::/128",
        "fe80::/10",
        "ff00::/8",
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google Cloud
    )
)
# IPv6 addresses that end in an IPv4 address, to which a packet may go in the end: compatible,
# mapped and translated ones (RFC 4291, RFC 2765), and those of NAT64 (RFC 6052, RFC 8215).
CARRIERS: Final = tuple(
    IPv6Network(text)
    for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
)
LOOPBACK: Final = IPv4Address("127.0.0.1")
PRINTABLE: Final = re.compile(r"[!-\[\]-~]{1,2048}")
HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?\.?", re.I | re.A)
NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.I | re.A)


class BadEndpoint(Invalid):
    """This is no URL that a server may have."""

    title = "Endpoint not usable"


class EndpointForbidden(Invalid):
    """The URL leads where it must not lead for whoever gave it."""

    title = "Endpoint not allowed"


def is_forbidden(address: Address, *, may_be_private: bool = False) -> bool:
    """Whether nothing may be sent to ``address``.

    ``may_be_private`` is for URLs of the installation's owner: loopback and private networks are
    allowed then, link-local and metadata addresses never.
    """
    carried = list(_carried(address)) if isinstance(address, IPv6Address) else []
    if carried:
        return any(is_forbidden(inner, may_be_private=may_be_private) for inner in carried)
    if any(address in network for network in NEVER if network.version == address.version):
        return True
    return not may_be_private and not _is_public(address)


def checked_url(given: str, *, may_be_private: bool = False) -> str:
    """Return ``given`` in its plain form: scheme, host, port and path, without a last slash.

    ``BadEndpoint`` for what is no such URL, ``EndpointForbidden`` for an address that is spelled
    out and forbidden. A name is not looked up.
    """
    parts = _split(given)
    host = (parts.hostname or "").lower()
    address = address_of(host)
    if address is not None and is_forbidden(address, may_be_private=may_be_private):
        raise EndpointForbidden(
            "The endpoint leads to an address that only this installation's owner may name, or "
            "that nobody may. Give one that is reachable from the internet.",
            param="endpoint",
        )
    shown = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{shown}{port}{parts.path.rstrip('/')}"


def address_of(host: str) -> Address | None:
    """Read an address that a URL spells out; ``None`` for a name.

    ``localhost`` is loopback (RFC 6761). Decimal, octal, hexadecimal and short forms of IPv4 are
    refused: resolvers take them for an address, and not all for the same one.
    """
    try:
        if ":" in host:
            return IPv6Address(host)
        if not HOST.fullmatch(host):
            raise BadEndpoint("The endpoint has no host that can be called.", param="endpoint")
        if NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
            return IPv4Address(host)
    except ValueError:
        text = "The endpoint's address is not in its usual form: 192.0.2.1 or [2001:db8::1]."
        raise BadEndpoint(text, param="endpoint") from None
    bare = host.lower().removesuffix(".")
    return LOOPBACK if bare == "localhost" or bare.endswith(".localhost") else None


def peer_address(text: str) -> Address:
    """Read an address as a resolver gives it, with or without a zone."""
    return ip_address(text)


def _split(given: str) -> SplitResult:
    """Take a URL apart, if it is one that every reader takes apart in the same way."""
    try:
        parts = urlsplit(given)
        is_plain = PRINTABLE.fullmatch(given) is not None and parts.port != 0
    except ValueError:
        raise BadEndpoint("The endpoint is no URL.", param="endpoint") from None
    if not is_plain or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadEndpoint("The endpoint is http://host:port or https://...", param="endpoint")
    if "@" in parts.netloc or "?" in given or "#" in given:
        text = "The endpoint has a user, a query or a fragment; leave it out."
        raise BadEndpoint(text, param="endpoint")
    return parts


def _carried(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses inside an IPv6 address."""
    if address.is_loopback or address.is_unspecified:
        return
    if any(address in network for network in CARRIERS):
        yield IPv4Address(address.packed[-4:])
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not address.is_reserved and not address.is_multicast
