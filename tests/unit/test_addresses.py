"""IP addresses as texts."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from vestry import addresses


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
        ("::1", "::1"),
        ("::10.0.0.1", "::a00:1"),  # "IPv4-compatible", which is no address of IPv4 (RFC 4291, section 2.5.5.1)
        ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
    ],
)
def test_an_ipv4_address_within_ipv6_is_itself(text: str, found: str) -> None:
    """What a socket that listens on `::` says of a peer with IPv4 is read as the peer's own address."""
    assert addresses.read(text) == ip_address(found)
    assert addresses.unmapped(ip_address(text)) == ip_address(found)


@pytest.mark.parametrize("text", ["", "unknown", "10.0.0", "10.0.0.1/32", "[::1]", "010.0.0.1", "a.b.c.d"])
def test_what_is_no_address_is_none(text: str) -> None:
    """A text that is no address, as a header or a Unix socket may have it, is nobody's."""
    assert addresses.read(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:db8::1/32", "2001:db8::/32"),
    ],
)
def test_an_ipv4_network_within_ipv6_is_itself(text: str, found: str) -> None:
    """As the addresses are that it is compared with: else it would hold none of them."""
    assert str(addresses.network(text)) == found
