"""PEM files that settings name: TLS towards other servers; when certificates end, and which are revoked."""

from __future__ import annotations

import errno
import logging
import os
import ssl
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vestry.late import Late
from vestry.regular import NotRegular, opened

if TYPE_CHECKING:
    from cryptography import x509
else:  # where there are certificates
    x509 = Late("cryptography.x509")

log = logging.getLogger("vestry")
BEGIN_CRL = b"-----BEGIN X509 CRL-----"
LARGEST_PEM = 1_048_576
"""Bytes."""


def trusting(ca: Path | None, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client's context, TLS 1.2 or newer: `ca` has the authorities, the system's where there is none; `certificate`
    and `key` are what is shown, where that is asked for.

    Raises OSError (NotRegular for what is no file: OpenSSL would wait for a pipe), or ValueError for what is no path.
    """
    for file in filter(None, (ca, certificate, key)):
        with opened(file) as held:
            if os.fstat(held.fileno()).st_size > LARGEST_PEM:
                raise NotRegular(errno.EFBIG, "it is too large for a PEM file", str(file))
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # What is trusted does not depend on Python, whose own choice of both changed in 3.13: each authority in the file is
    # the end of a chain, signed by itself or not; and those of houses and clusters lack extensions that RFC 5280 wants.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    if certificate is not None:
        context.load_cert_chain(certificate, key, password="")  # never asks at a terminal
    return context


def validity(certificate: Path) -> tuple[datetime, datetime]:
    """From when until when a PEM file's first certificate is valid. Raises OSError, or ValueError if there is none."""
    first = x509.load_pem_x509_certificate(certificate.read_bytes())
    return first.not_valid_before_utc, first.not_valid_after_utc


def revocation_lists(file: Path) -> list[x509.CertificateRevocationList]:
    """A PEM file's lists of revoked certificates. Raises OSError, or ValueError where only OpenSSL can read one."""
    found = [BEGIN_CRL + each for each in file.read_bytes().split(BEGIN_CRL)[1:]]
    return [x509.load_pem_x509_crl(each) for each in found]


class Authorities:
    """A client's context for one connection after another, as `trusting` has it: made anew once a file has changed."""

    def __init__(self, ca: Path | None, certificate: Path | None = None, key: Path | None = None) -> None:
        self._given = ca, certificate, key
        self._files = [each for each in self._given if each is not None]
        self._seen: list[tuple[int, ...]] = []
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """For a connection. Changed files that are no good, as while they are being replaced, leave what was before,
        which is said once. Raises as `trusting` at first.
        """
        found, seen = self._context, [_stamp(each) for each in self._files]
        if found is None or seen != self._seen:
            self._seen = seen
            try:
                found = self._context = trusting(*self._given)
            except (OSError, ValueError) as fault:
                if found is None:
                    raise
                named = ", ".join(map(str, self._files))
                log.warning("the changed certificates (%s) were not loaded: %s", named, fault)
        return found


def _stamp(file: Path) -> tuple[int, ...]:
    """What is another once the file, or who may read it, is."""
    try:
        stat = file.stat()
    except OSError:
        return ()
    return stat.st_ctime_ns, stat.st_ino
