"""IP addresses as texts, from sockets, headers and settings."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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
