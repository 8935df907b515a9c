"""TLS for the API, with certificates that may change while it runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from cryptography import x509

from vestry.settings import Tls

log = logging.getLogger("vestry")
VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
HANDSHAKE_SECONDS = 8.0


class Certificates:
    """The listening side's TLS context (TLS 1.2 or newer), and the files behind it.

    Raises OSError or ssl.SSLError if the files cannot be used.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.verify_mode = VERIFY[tls.client_certificates]
        self.expires: float | None = None
        self._seen: tuple[tuple[int, int], ...] = ()
        self._load()

    def _load(self) -> None:
        self.context.load_cert_chain(self._tls.certificate, self._tls.key)
        if self._tls.client_ca is not None:
            self.context.load_verify_locations(self._tls.client_ca)
        self._seen = self._stamps()
        self.expires = _expiry(self._tls.certificate)

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        files = [self._tls.certificate, self._tls.key, self._tls.client_ca]
        return tuple((stat.st_mtime_ns, stat.st_ino) for file in files if file is not None for stat in [file.stat()])

    async def watch(self) -> None:
        """Load changed files for the connections that come after. A pair that does not fit leaves the old one."""
        while True:
            await asyncio.sleep(self._tls.reload_seconds)
            try:
                if self._stamps() != self._seen:
                    # A scratch context first: a failed load must not leave half of a pair in the one that serves.
                    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._tls.certificate, self._tls.key)
                    self._load()
                    log.info("loaded the changed certificate")
            except (OSError, ssl.SSLError) as fault:
                log.warning("the changed certificate was not loaded: %s", fault)


def _expiry(certificate: Path) -> float:
    """When the first certificate of a PEM file expires, in seconds since the epoch."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()
