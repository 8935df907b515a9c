"""Certificates made on the spot."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vestry.settings.tree import Tls

_AUTHORITY = trustme.CA()


def made(folder: Path, *, begins_days: float = -1, ends_days: float = 30) -> Tls:
    """A certificate for localhost and its key, as files in a folder, valid between two days from now."""
    now = datetime.now(UTC)
    issued = _AUTHORITY.issue_cert(
        "localhost", not_before=now + timedelta(days=begins_days), not_after=now + timedelta(days=ends_days)
    )
    certificate, key, authority = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
    certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    _AUTHORITY.cert_pem.write_to_path(str(authority))
    return Tls(certificate=certificate, key=key)


NAMES: dict[str, Callable[[str], x509.GeneralName]] = {
    "DNS": x509.DNSName,
    "URI": x509.UniformResourceIdentifier,
    "email": x509.RFC822Name,
    "IP": lambda text: x509.IPAddress(ipaddress.ip_address(text)),
}


class Shown:
    """A client's certificate and its key."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, chain: bytes = b"") -> None:
        self._chain = chain
        self.serial = certificate.serial_number
        self.der = certificate.public_bytes(serialization.Encoding.DER)
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.thumbprint = base64.urlsafe_b64encode(hashlib.sha256(self.der).digest()).decode().rstrip("=")

    def load(self, context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
        """Show it in handshakes of this context."""
        file = folder / f"{self.serial}.pem"
        file.write_bytes(self.pem + self._chain + self.key)
        context.load_cert_chain(file)
        return context


class Clients:
    """An authority that signs clients' certificates, and revokes them."""

    def __init__(self, name: str = "Clients", above: Clients | None = None) -> None:
        """Its certificate is signed by the authority `above`, and clients show it; without one by itself."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = (above or self)._signed(self._name, self._key, (basic,))
        self._chain = above is not None
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, begins: float = -3600, ends: float = 86_400) -> Shown:
        """A certificate with these names, such as `DNS:host`, valid between two moments: seconds from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        general = [NAMES[kind](value) for kind, _, value in (name.partition(":") for name in names)]
        more = (x509.SubjectAlternativeName(general),) if general else ()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        return Shown(self._signed(subject, key, more, begins, ends), key, self.pem if self._chain else b"")

    def revoked(self, *serials: int, ends: float = 86_400) -> bytes:
        """The list of revoked certificates, in PEM."""
        now = datetime.now(UTC)
        made = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(now - timedelta(days=2))
        made = made.next_update(now + timedelta(seconds=ends))
        for serial in serials:
            row = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(hours=1))
            made = made.add_revoked_certificate(row.build())
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Iterable[x509.ExtensionType],
        begins: float = -3600,
        ends: float = 86_400,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now + timedelta(seconds=begins)).not_valid_after(now + timedelta(seconds=ends))
        for extension in extensions:
            made = made.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return made.sign(self._key, hashes.SHA256())
