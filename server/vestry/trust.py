"""TLS towards other servers, from PEM files that settings name."""

from __future__ import annotations

import errno
import os
import ssl
from pathlib import Path

from vestry.regular import NotRegular, opened

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
    if certificate is not None:
        context.load_cert_chain(certificate, key, password="")  # never asks at a terminal
    return context
