"""TLS towards other servers, from PEM files that settings name."""

from __future__ import annotations

import errno
import logging
import os
import ssl
from pathlib import Path

from vestry.regular import NotRegular, opened

log = logging.getLogger("vestry")
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


class Authorities:
    """A client's context for one connection after another: made anew once `ca` has changed."""

    def __init__(self, ca: Path | None) -> None:
        self._ca = ca
        self._seen: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """For a connection. A changed file that is no good leaves what was before. Raises as `trusting` at first."""
        found, seen = self._context, self._stamp()
        if found is None or seen != self._seen:
            self._seen = seen
            try:
                found = self._context = trusting(self._ca)
            except (OSError, ValueError) as fault:
                if found is None:
                    raise
                log.warning("the changed authorities in %s were not loaded: %s", self._ca, fault)
        return found

    def _stamp(self) -> tuple[int, ...]:
        try:
            stat = None if self._ca is None else self._ca.stat()
        except OSError:
            return ()
        return () if stat is None else (stat.st_mtime_ns, stat.st_ino, stat.st_size)
