"""What the settings name, looked at: files, permissions, addresses, ports. Changes nothing, and starts nothing.

`serve` does it at the start, `check` when asked. A fault is something that would keep the server from working, or
make it unsafe; what may yet come right by itself, such as an engine that is not up, is none.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from vestry.addresses import Address
from vestry.configuration.export_files import faults_of_exports
from vestry.configuration.identity_files import faults_of_identity
from vestry.configuration.store_files import faults_of_store
from vestry.configuration.strict_yaml import Trail
from vestry.faults import Fault
from vestry.secret_files import CONTENT_HASH, exposure, is_folder, looked_at, lost_pepper, useless
from vestry.settings.section import address_of, is_private
from vestry.settings.tree import Settings, Tls
from vestry.trust import LARGEST_PEM, revocation_lists, trusting, validity

RESOLVE_SECONDS = 2.0

Place = Callable[[Trail], str]


def inspect(settings: Settings, place: Place | None = None) -> list[Fault]:
    """Every fault of what the settings name. `place` tells where a setting was written (`Places.of`)."""
    return list(_faults(settings, place or _dotted))


def _faults(settings: Settings, place: Place) -> Iterator[Fault]:
    if settings.server.tls is not None:
        yield from _certificates(settings.server.tls, place)
    yield from _ports(settings, place)
    yield from _engines(settings, place)
    yield from _authorities(settings.relay.ca, place)
    yield from _tenants(settings, place)
    yield from _directories(settings, place)
    yield from _copies(settings, place)
    yield from _private_files(settings)
    yield from _content_key(settings, place)
    yield from faults_of_exports(settings, place)
    yield from faults_of_store(settings, place)
    yield from faults_of_identity(settings, place)


def _dotted(trail: Trail) -> str:
    return ".".join(map(str, trail))


# TLS.


def _certificates(tls: Tls, place: Place) -> Iterator[Fault]:
    broken = False
    for name in ("certificate", "key", "client_ca", "client_crl"):
        file: Path | None = getattr(tls, name)
        if file is not None and (why := _unreadable(file)):
            broken = True
            yield Fault(place(("server", "tls", name)), f"{file} {why}", "Name a readable PEM file")
    if broken:
        return
    yield from _chain(tls, place)
    status = tls.key.stat()
    if exposed := exposure(tls.key, status):
        yield exposed.fault
    if tls.client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(tls.client_ca)
        except (OSError, ssl.SSLError):
            what = f"{tls.client_ca} holds no certificates of authorities"
            yield Fault(place(("server", "tls", "client_ca")), what, "Write them there, in PEM")
    if tls.client_crl is not None:
        yield from _revoked(tls.client_crl, place(("server", "tls", "client_crl")))


def _unreadable(file: Path) -> str | None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "is not a file"
        with file.open("rb") as opened:
            return "is too large for a PEM file" if len(opened.read(LARGEST_PEM + 1)) > LARGEST_PEM else None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        return f"cannot be read ({why})"


def _chain(tls: Tls, place: Place) -> Iterator[Fault]:
    """The certificate by itself, then the pair."""
    at = place(("server", "tls", "certificate"))
    try:
        begins, ends = validity(tls.certificate)
    except ValueError:
        yield Fault(at, f"{tls.certificate} holds no certificate in PEM", "Put the certificate there, then its chain")
        return
    now = datetime.now(UTC)
    if ends <= now:
        yield Fault(at, f"the certificate expired on {ends:%Y-%m-%d %H:%M} UTC", "Renew it")
    elif begins > now:
        mend = "Look at this machine's clock, or wait"
        yield Fault(at, f"the certificate is valid only from {begins:%Y-%m-%d %H:%M} UTC", mend)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ssl.SSLError, ValueError) as error:
        at = place(("server", "tls", "key"))
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            yield Fault(
                at, "the key does not belong to the certificate", "Name the key that the certificate was made for"
            )
        else:
            mend = "Write the private key there in PEM, without a passphrase"
            yield Fault(at, f"{tls.key} holds no private key that can be used", mend)


def _revoked(file: Path, at: str) -> Iterator[Fault]:
    """Lists of revoked certificates that are none, or are not current: they would keep every client out."""
    try:
        lists = revocation_lists(file)
    except ValueError:
        lists = []
    if not lists:
        yield Fault(at, f"{file} holds no lists of revoked certificates", "Write those of `client_ca` there, in PEM")
    for each in lists:
        ends = each.next_update_utc
        if ends is not None and ends <= datetime.now(UTC):
            what = f"the list of {each.issuer.rfc4514_string()} expired on {ends:%Y-%m-%d %H:%M} UTC"
            yield Fault(at, what, "Fetch the current one; until then its clients are refused")


# Addresses and ports.


def _ports(settings: Settings, place: Place) -> Iterator[Fault]:
    """Every listener of this machine, against those before it."""
    server = settings.server
    listeners: list[tuple[Trail, str, int]] = [
        (("server", "port"), server.host, server.port),
        (("server", "ops_port"), server.ops_host, server.ops_port),
        (("server", "admin_port"), server.admin_host, server.admin_port),
    ]
    for name, model in settings.models.items():
        if not model.replicas:
            listeners.append((("models", name, "engine", "port"), model.engine.host, model.engine.port))
    for index, (trail, host, port) in enumerate(listeners):
        for other, at, taken in listeners[:index]:
            if port == taken != 0 and _same_host(host, at):
                what = f"port {port} is also that of {_dotted(other)}"
                yield Fault(place(trail), what, "Give each a port of its own")
                break


def _same_host(one: str, other: str) -> bool:
    """Whether two listeners on these hosts get in each other's way."""
    alike = one.lower() == other.lower()
    return alike or any((address := address_of(each)) is not None and address.is_unspecified for each in (one, other))


def _engines(settings: Settings, place: Place) -> Iterator[Fault]:
    public = _public({_host_of(replica.url) for model in settings.models.values() for replica in model.replicas})
    for name, model in settings.models.items():
        seen: set[str] = set()
        for index, replica in enumerate(model.replicas):
            trail: Trail = ("models", name, "replicas", index, "url")
            if replica.url in seen:
                yield Fault(place(trail), f"{replica.url} stands here a second time", "Name each engine once")
            seen.add(replica.url)
            host = _host_of(replica.url)
            if host in public:
                what = f"{host} is at {public[host]}, which is not a private address"
                yield Fault(place(trail), what, "Engines are called on loopback or private addresses only")


def _authorities(ca: Path | None, place: Place) -> Iterator[Fault]:
    """Those of the engines: with a file that is no good no engine at `https://` could be called."""
    if ca is not None:
        try:
            trusting(ca)
        except (OSError, ValueError) as error:
            yield Fault(place(("relay", "ca")), f"{ca} cannot be used: {error}", "Name a readable PEM file")


def _host_of(url: str) -> str:
    return url.partition("://")[2].rpartition(":")[0]


def _public(hosts: set[str]) -> dict[str, Address]:
    """The names among these that have an address which is neither loopback nor private, and that address.

    All are asked for at once. One that is not known in time is not judged: its engine may come later.
    """
    found: dict[str, Address] = {}
    asking = [threading.Thread(target=_resolve, args=(host, found), daemon=True) for host in hosts]
    for each in asking:  # threads, because getaddrinfo(3) knows no deadline
        each.start()
    deadline = time.monotonic() + RESOLVE_SECONDS
    for each in asking:
        each.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def _resolve(host: str, found: dict[str, Address]) -> None:
    if address_of(host) is not None:
        return  # the settings themselves have judged it
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    for answer in answers:
        address = address_of(str(answer[4][0]).partition("%")[0])
        if address is not None and not is_private(address):
            found[host] = address


def _tenants(settings: Settings, place: Place) -> Iterator[Fault]:
    if not settings.tenants:
        yield Fault(place(("tenants",)), "there is no tenant, so no key can work", "Name one, such as `default:`")
    if not settings.models:
        yield Fault(place(("models",)), "there is no model, so nothing can be served", "Name one")


# Files of ours.


def _directories(settings: Settings, place: Place) -> Iterator[Fault]:
    """Each must exist and be writable, or be one that can be made."""
    wanted: dict[Trail, Path] = {("state",): settings.state, ("audit", "directory"): settings.audit_directory}
    for trail, path in wanted.items():
        standing = _standing(path)
        if not is_folder(standing):
            yield Fault(place(trail), f"{standing} is not a directory", "Name one that is, or that can be made")
        elif not os.access(standing, os.W_OK | os.X_OK):
            yield Fault(place(trail), f"{standing} cannot be written to by this user", "Give it to this user")


def _standing(path: Path) -> Path:
    """The path, or the nearest above it that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))


def _copies(settings: Settings, place: Place) -> Iterator[Fault]:
    """The files that outside copies need. Whether a copy can be reached is no fault: it may come right by itself."""
    for index, copy in enumerate(settings.audit.copies):
        for name in ("ca", "certificate", "key", "credentials"):
            file: Path | None = getattr(copy, name, None)
            if file is None:
                continue
            trail: Trail = ("audit", "copies", index, name)
            if why := _unreadable(file):
                yield Fault(place(trail), f"{file} {why}", "Name a file that this user can read")
            elif name in {"key", "credentials"} and (exposed := exposure(file, file.stat())):
                yield exposed.fault


def _private_files(settings: Settings) -> Iterator[Fault]:
    folder = settings.secrets_directory
    if lost := lost_pepper(settings):
        yield lost.fault
    for path in (folder, settings.signing_key):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a path"
            yield Fault(str(path), f"it cannot be looked at ({why})", "Let this user read it")
            continue
        if exposed := exposure(path, status):
            yield exposed.fault
    yield from (each.fault for each in useless(settings))
    keys = settings.keys_database
    found = looked_at(keys)
    if found is not None and (mode := stat.S_IMODE(found.st_mode)) & 0o007:
        yield Fault(str(keys), f"others may read or write it (mode {mode:04o})", f"Close it: chmod 600 {keys}")


def _content_key(settings: Settings, place: Place) -> Iterator[Fault]:
    """Where content is to be hashed, the key of the hashes is there or can be made: not where secrets are mounted."""
    path = settings.secrets_directory / CONTENT_HASH
    asking = next(_hashing(settings), None)
    if asking is None or os.path.lexists(path) or os.access(_standing(path.parent), os.W_OK | os.X_OK):
        return
    what = f"content is to be hashed with {path}, which is missing and cannot be made"
    yield Fault(place(asking), what, "Put 32 random bytes there, and keep a copy")


def _hashing(settings: Settings) -> Iterator[Trail]:
    """Where it is said that content is kept `hashed`."""
    for name, tenant in settings.tenants.items():
        if "hashed" in tenant.content.modes():
            yield ("tenants", name, "content")
    for index, rule in enumerate(settings.policy.rules):
        if rule.content == "hashed":
            yield ("policy", "rules", index, "content")
