"""Certificates that callers show: read from their handshake, or from a header of a trusted proxy.

What cannot be read for certain is no certificate. The chain has been verified by whoever finished the handshake:
OpenSSL here, or the proxy, whose word is not checked again, for two of the three headers do not hold the chain.
Validity is looked at in each call.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from cryptography import x509
from msgspec import Struct

from vestry.san import normal
from vestry.types import Certificate

MOST_BYTES = 16_384
MOST_NAMES = 64
MOST_HEADERS = 512
FOREVER = 2**53 - 1
BEGIN, END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
ESCAPES = re.compile(rb"%(?![0-9A-Fa-f]{2})")
HASH = re.compile(r"[0-9A-Fa-f]{64}")
ELEMENT = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^",;]*)([,;]|$)')


class NoCertificate(ValueError):  # noqa: N818 - what it says
    """What was shown is no certificate, or cannot be read for certain."""


def of_connection(transport: asyncio.BaseTransport) -> Certificate | None:
    """What the client showed in its handshake, and OpenSSL has verified; None for nothing."""
    connection = transport.get_extra_info("ssl_object")
    shown: bytes | None = None if connection is None else connection.getpeercert(binary_form=True)
    try:
        return None if shown is None else read(shown)
    except NoCertificate:
        return None


def read(der: bytes) -> Certificate:
    """A certificate from its DER form. Raises NoCertificate."""
    if len(der) > MOST_BYTES:
        raise NoCertificate
    try:
        parsed = x509.load_der_x509_certificate(der)
        begins, ends = parsed.not_valid_before_utc, parsed.not_valid_after_utc
        shown = _names(parsed)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType):
        raise NoCertificate from None
    if len(shown) > MOST_NAMES:
        raise NoCertificate
    names = tuple(name for kind, value in shown if (name := normal(kind, value)) is not None)
    return Certificate(
        thumbprint(hashlib.sha256(der).digest()), names, _micro(begins.timestamp()), _micro(ends.timestamp())
    )


def _names(parsed: x509.Certificate) -> list[tuple[str, str]]:
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *(("DNS", each) for each in names.get_values_for_type(x509.DNSName)),
        *(("URI", each) for each in names.get_values_for_type(x509.UniformResourceIdentifier)),
        *(("email", each) for each in names.get_values_for_type(x509.RFC822Name)),
        *(("IP", str(each)) for each in names.get_values_for_type(x509.IPAddress)),
    ]


def _micro(seconds: float) -> int:
    return int(seconds) * 1_000_000


def thumbprint(digest: bytes) -> str:
    """`x5t#S256` of RFC 8705, section 3.1, from the SHA-256 of a certificate's DER form."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


# Headers of proxies.


class Form(Struct, frozen=True):
    """A way to write a certificate into headers: their names, and how their values are read, in this order.

    `read` answers None for "the client has shown none", and for whatever it cannot read.
    """

    headers: tuple[bytes, ...]
    read: Callable[..., Certificate | None]


def form(name: str) -> Form:
    """One of `FORMS`, with a memory of its own for what it has read."""
    headers, read_values = FORMS[name]

    @lru_cache(maxsize=MOST_HEADERS)
    def remembered(*values: bytes) -> Certificate | None:
        try:
            return read_values(*values)
        except NoCertificate:
            return None

    def bounded(*values: bytes) -> Certificate | None:
        return remembered(*values) if sum(map(len, values)) <= MOST_BYTES else None

    return Form(headers, bounded)


def _envoy(value: bytes) -> Certificate:
    """`x-forwarded-client-cert` of Envoy: elements by commas, pairs by semicolons. The last element is what the nearest
    proxy has verified; those before are what it was told.

    With `Cert` the certificate itself is read, else its `Hash` and names are believed; its validity is then the
    proxy's.
    """
    pairs = _last_element(value.decode("latin-1"))
    digests, whole = pairs.get("hash", []), pairs.get("cert", [])
    if len(digests) > 1 or len(whole) > 1:
        raise NoCertificate
    if digests and not HASH.fullmatch(digests[0]):
        raise NoCertificate
    told = thumbprint(bytes.fromhex(digests[0])) if digests else ""
    if whole:
        certificate = _escaped_pem(whole[0].encode("latin-1"))
        if told not in ("", certificate.thumbprint):
            raise NoCertificate
        return certificate
    names = [("URI", each) for each in pairs.get("uri", [])] + [("DNS", each) for each in pairs.get("dns", [])]
    if not told or len(names) > MOST_NAMES:
        raise NoCertificate
    return Certificate(told, tuple(name for each in names if (name := normal(*each)) is not None), 0, FOREVER)


def _last_element(text: str) -> dict[str, list[str]]:
    """The values of the last element, by their keys in lower case. Raises NoCertificate where the text is not whole."""
    pairs: dict[str, list[str]] = {}
    place, end = 0, ","
    while end:
        if end == ",":
            pairs = {}
            place += len(text[place:]) - len(text[place:].lstrip(" "))
        found = ELEMENT.match(text, place)
        if found is None:
            raise NoCertificate
        key, value, end = found.groups()
        plain = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        pairs.setdefault(key.lower(), []).append(plain)
        place = found.end()
    return pairs


def _rfc9440(value: bytes) -> Certificate:
    """`Client-Cert` (RFC 9440, section 2.2): the DER form as a byte sequence of RFC 8941, between colons."""
    text = value.strip(b" \t")
    if len(text) < 3 or not text.startswith(b":") or not text.endswith(b":"):
        raise NoCertificate
    return read(_base64(text[1:-1]))


def _base64(text: bytes) -> bytes:
    """What base64 text stands for; one without its padding is read all the same, as RFC 8941, section 4.2.7, asks."""
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise NoCertificate from None


def _nginx(value: bytes, verdict: bytes) -> Certificate:
    """`ssl-client-cert` and `ssl-client-verify` of ingress-nginx: `$ssl_client_escaped_cert`, `$ssl_client_verify`."""
    if verdict != b"SUCCESS":
        raise NoCertificate
    return _escaped_pem(value)


def _escaped_pem(text: bytes) -> Certificate:
    """The only certificate of a PEM text that is percent-encoded."""
    if ESCAPES.search(text):
        raise NoCertificate
    before, begin, rest = unquote_to_bytes(text).partition(BEGIN)
    body, end, after = rest.partition(END)
    if not begin or not end or before.strip() or after.strip():
        raise NoCertificate
    return read(_base64(b"".join(body.split())))


FORMS: Mapping[str, tuple[tuple[bytes, ...], Callable[..., Certificate]]] = MappingProxyType(
    {
        "x-forwarded-client-cert": ((b"x-forwarded-client-cert",), _envoy),
        "client-cert": ((b"client-cert",), _rfc9440),
        "ssl-client-cert": ((b"ssl-client-cert", b"ssl-client-verify"), _nginx),
    }
)
"""The formats that proxies write, by the word of `server.client_certificate_header`."""
