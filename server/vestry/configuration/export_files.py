"""The files that an export's settings name: authorities, a client certificate, a token."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from vestry.configuration.strict_yaml import Trail
from vestry.faults import Fault
from vestry.secret_files import SecretFault, read
from vestry.settings.record import Export
from vestry.settings.tree import Settings
from vestry.trust import trusting


def token_of(path: Path) -> str:
    """The token in a secret file. Raises OSError, so that a token that is changed badly is a failure of the export."""
    try:
        text = read(path, 1).decode("ascii").strip()
    except (SecretFault, UnicodeDecodeError) as error:
        raise OSError(f"the token in {path} cannot be used: {error}") from None
    if not text or not text.isprintable():
        raise OSError(f"the token in {path} cannot be used: it is not one line of printable ASCII characters")
    return text


def context_of(export: Export) -> Callable[[], ssl.SSLContext]:
    """What makes the TLS context of a connection; changed files hold for the next connection.

    What it gives raises as `trusting`.
    """
    return lambda: trusting(export.ca, export.certificate, export.key)


def faults_of_exports(settings: Settings, place: Callable[[Trail], str]) -> Iterator[Fault]:
    """What would keep the exports from working: files that are missing, exposed, or not what they should be."""
    for number, export in enumerate(settings.audit.exports):
        try:
            context_of(export)()
        except (OSError, ValueError) as error:
            at = place(("audit", "exports", number))
            yield Fault(at, f"the certificates of `{export.name}` cannot be used: {error}", "Name readable PEM files")
        for path in (export.token, export.key):
            if path is not None:
                try:
                    read(path, 1)
                except SecretFault as fault:
                    yield fault.fault
