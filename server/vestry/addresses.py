"""IP addresses and networks as texts, from sockets, headers and settings."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def unmapped(address: Address) -> Address:
    """An address; one of IPv4 that a socket of IPv6 shows (RFC 4291, section 2.5.5.2) is itself."""
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def read(text: str) -> Address | None:
    """The address that a text is, `unmapped`; None for what is none."""
    try:
        return unmapped(ipaddress.ip_address(text))
    except ValueError:
        return None


def plain(text: str) -> str | None:
    """The text of the address that a text is, as `read` has it: each address has one. None for what is none."""
    found = read(text)
    return None if found is None else str(found)


def network(text: str) -> Network:
    """The network that a text is, be it an address; one of IPv4 written as IPv6 is itself, since that is what addresses
    are compared as. Raises ValueError.
    """
    found = ipaddress.ip_network(text, strict=False)
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(MAPPED):
        return ipaddress.IPv4Network((unmapped(found.network_address).packed, found.prefixlen - MAPPED.prefixlen))
    return found
