"""Certificates that are shown: read whole, or not at all. Whatever a header holds, the worst is "no certificate"."""

from __future__ import annotations

import base64
import ipaddress
from urllib.parse import quote

import pytest
from cryptography import x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.certificates import Clients
from vestry.edge.certificates import FORMS, MOST_BYTES, NoCertificate, form, read
from vestry.types import Certificate

CLIENTS = Clients()
NAMES = ("DNS:CT.example", "URI:SPIFFE://Hospital.example/ns/A", "email:Alice@Hospital.example", "IP:10.0.0.1")
SHOWN = CLIENTS.issue(*NAMES, "DNS:*.example")
ESCAPED = quote(SHOWN.pem.decode(), safe="").encode()


def test_a_certificate_is_read() -> None:
    """Its thumbprint is `x5t#S256` of RFC 8705; its names are in their written form, wildcards left out."""
    found = read(SHOWN.der)
    assert found.thumbprint == SHOWN.thumbprint
    assert len(found.thumbprint) == 43
    assert sorted(found.names) == [
        "DNS:ct.example",
        "IP:10.0.0.1",
        "URI:spiffe://hospital.example/ns/A",
        "email:Alice@hospital.example",
    ]
    parsed = x509.load_der_x509_certificate(SHOWN.der)
    assert found.not_before == int(parsed.not_valid_before_utc.timestamp()) * 1_000_000
    assert found.not_after == int(parsed.not_valid_after_utc.timestamp()) * 1_000_000


def test_a_certificate_without_names_has_none() -> None:
    """The subject is not looked at (RFC 9525, section 2)."""
    assert read(CLIENTS.issue().der).names == ()


def test_too_many_names_or_bytes_are_no_certificate() -> None:
    """Bounded, whatever the authority signs."""
    with pytest.raises(NoCertificate):
        read(CLIENTS.issue(*(f"DNS:a{number}.example" for number in range(65))).der)
    with pytest.raises(NoCertificate):
        read(b"\x30" * (MOST_BYTES + 1))


@given(st.integers(0, len(SHOWN.der) - 1), st.integers(0, 255))
def test_a_spoilt_certificate_is_read_or_refused(place: int, byte: int) -> None:
    """One byte of it is another: nothing but NoCertificate is raised."""
    spoilt = bytearray(SHOWN.der)
    spoilt[place] = byte
    try:
        read(bytes(spoilt))
    except NoCertificate:
        return


@given(st.binary(max_size=300))
@example(b"")
def test_bytes_are_no_certificate(der: bytes) -> None:
    """What is no DER is refused in one way."""
    with pytest.raises(NoCertificate):
        read(der)


PIECES = st.sampled_from(
    [b"Cert=", b"Hash=", b"URI=", b"DNS=", b"By=x", b";", b",", b'"', b"\\", b" ", b"=", b":", b"%", b"%00",
     b"%2", b"\xff", b"0" * 64, SHOWN.der.hex().encode()[:64], ESCAPED, base64.b64encode(SHOWN.der),
     b"SUCCESS", b"", b"a" * 9000]
)  # fmt: skip
VALUES = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join))


@settings(max_examples=400)
@given(st.sampled_from(sorted(FORMS)), VALUES, st.one_of(st.just(b"SUCCESS"), VALUES))
@example("x-forwarded-client-cert", b"\xb2=\xb2", b"")
@example("client-cert", b":====:", b"SUCCESS")
def test_whatever_a_header_holds_is_a_certificate_or_none(name: str, value: bytes, verdict: bytes) -> None:
    """Never an error; and a certificate only with a thumbprint, names that are bounded, and an end."""
    told = form(name)
    found = told.read(*(value, verdict)[: len(told.headers)])
    if found is not None:
        assert isinstance(found, Certificate)
        assert len(found.thumbprint) == 43
        assert len(found.names) <= 64
        assert found.not_before < found.not_after


def test_envoys_names_are_believed_where_it_sends_no_certificate() -> None:
    """All of its `URI` and `DNS`, quoted or not; its keys in any case; the hash is the thumbprint."""
    digest = base64.urlsafe_b64decode(SHOWN.thumbprint + "=").hex()
    value = f'by=x;HASH={digest};uri=spiffe://a/b;URI="spiffe://a/c";DNS=a.example;DNS=*.example;Subject=""'
    found = form("x-forwarded-client-cert").read(value.encode())
    assert found is not None
    assert (found.thumbprint, found.names) == (
        SHOWN.thumbprint,
        ("URI:spiffe://a/b", "URI:spiffe://a/c", "DNS:a.example"),
    )


def test_a_header_is_read_once() -> None:
    """The same value again is the same object; what is too large is neither read nor remembered."""
    told = form("client-cert")
    value = b":" + base64.b64encode(SHOWN.der) + b":"
    assert told.read(value) is told.read(bytes(bytearray(value))) is not None
    assert told.read(b":" + b"A" * MOST_BYTES + b":") is None


def test_an_address_is_a_name() -> None:
    """Of either family, in its shortest form."""
    shown = CLIENTS.issue("IP:2001:db8::7", "IP:127.0.0.1")
    assert read(shown.der).names == (f"IP:{ipaddress.ip_address('2001:db8::7')}", "IP:127.0.0.1")
