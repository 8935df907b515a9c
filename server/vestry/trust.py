"""TLS towards other servers, from PEM files that settings name."""

from __future__ import annotations

import ssl
from pathlib import Path


def trusting(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """A client's context, TLS 1.2 or newer: `ca` has the authorities, the system's where there is none; `certificate`
    and `key` are what is shown, where that is asked for.

    Raises OSError, or ValueError for what is no path.
    """
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        context.load_cert_chain(certificate, key, password="")  # never asks at a terminal
    return context
