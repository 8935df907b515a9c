"""The files that the store's settings name: a password, authorities, a client certificate."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from vestry.configuration.strict_yaml import Trail
from vestry.faults import Fault
from vestry.secret_files import SecretFault, read
from vestry.settings.store import Store
from vestry.settings.tree import Settings
from vestry.trust import Authorities


def password_of(path: Path) -> str:
    """The password in a secret file. Raises OSError, which never holds it."""
    try:
        text = read(path, 1).decode("utf-8").rstrip("\r\n")
    except SecretFault as error:
        raise OSError(f"its password cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise OSError(f"its password cannot be read: {path} is not text in UTF-8") from None
    if not text or not text.isprintable():
        raise OSError(f"its password cannot be read: {path} is not one line of printable characters")
    return text


def context_of(store: Store) -> Callable[[], ssl.SSLContext | None]:
    """What gives the TLS context of a connection to PostgreSQL; None for one without TLS. Raises as `trusting`."""
    if not store.encrypted:
        return lambda: None
    authorities = Authorities(store.ca, store.certificate, store.key)
    authorities.context()
    return authorities.context


def faults_of_store(settings: Settings, place: Callable[[Trail], str]) -> Iterator[Fault]:
    """What would keep PostgreSQL from being asked: files that are missing, exposed, or not what they should be."""
    store = settings.store
    if store.url is None:
        return
    try:
        context_of(store)
    except (OSError, ValueError) as error:
        yield Fault(place(("store",)), f"the certificates cannot be used: {error}", "Name readable PEM files")
    for path in (store.password, store.key):
        if path is None:
            continue
        try:
            read(path, 1)
        except SecretFault as fault:
            yield fault.fault
            continue
        if path == store.password:
            try:
                password_of(path)
            except OSError as error:
                yield Fault(place(("store", "password")), str(error), "Write the password there, as one line")
