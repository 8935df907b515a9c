"""TLS for the API, with certificates that may change while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from vestry.settings.tree import Tls
from vestry.trust import revocation_lists, validity
from vestry.types import Term

log = logging.getLogger("vestry")
NAMED = 5
VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


class Certificates:
    """The listening side's TLS context, and the files behind it. TLS 1.2 or newer; 1.3 with client certificates.

    Each handshake takes the context of the files as they were last loaded: a context of its own for every load, so
    that an authority that was taken out of `client_ca` is no longer trusted. With client certificates no session
    is resumed, for a resumed one shows no certificate, and TLS 1.2 leaves no choice there. Lists of revoked
    certificates belong to the context's store, the flag that asks for them to each connection: every context has it.

    Raises OSError or ValueError, which names them, if the files cannot be used.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._stamps()
        self._current, self.term, self.lists_term = self._load()
        self.context = self._current
        self.context.sni_callback = self._choose

    def _load(self) -> tuple[ssl.SSLContext, Term, Term | None]:
        tls = self._tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        asks = tls.client_certificates != "none"
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if asks else ssl.TLSVersion.TLSv1_2
        if asks:
            context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        context.verify_mode = VERIFY[tls.client_certificates]
        with _named(tls.certificate, tls.key):
            context.load_cert_chain(tls.certificate, tls.key, password="")  # never asks at a terminal
            begins, ends = validity(tls.certificate)
            if not begins <= datetime.now(UTC) < ends:  # no client would connect, and no alert tells of a new one
                raise ValueError(f"the certificate is valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC")
        for file in (tls.client_ca, tls.client_crl):
            if file is not None:
                with _named(file):
                    context.load_verify_locations(file)
        lists = None
        if tls.client_crl is None:  # as in `trusting`; with lists the chain goes on to the root, which lists the others
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        else:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            with contextlib.suppress(ValueError):  # only OpenSSL can read them
                lists = revocation_lists(tls.client_crl)
        if lists is not None:
            _tell_refused(context, lists)
        return context, _between(begins, ends), _first_to_end(lists or ())

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        """Called in every handshake, with a server name or without (SSL_CTX_set_tlsext_servername_callback(3))."""
        connection.context = self._current

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        files = [self._tls.certificate, self._tls.key, self._tls.client_ca, self._tls.client_crl]
        return tuple((stat.st_mtime_ns, stat.st_ino) for file in files if file is not None for stat in [file.stat()])

    async def watch(self, changed: Callable[[], None]) -> None:
        """Load changed files for the connections that come after. Files that do not fit leave the old ones.

        `changed` is called when those who may connect are others: by the authorities, or by what these have revoked.
        """
        while True:
            await asyncio.sleep(self._tls.reload_seconds)
            try:
                stamps = self._stamps()
                if stamps != self._seen:
                    self._current, self.term, self.lists_term = self._load()
                    before, self._seen = self._seen, stamps
                    log.info("loaded the changed certificate")
                    if before[2:] != stamps[2:]:
                        changed()
            except (OSError, ValueError) as fault:
                log.warning("the changed certificate was not loaded: %s", fault)


@contextlib.contextmanager
def _named(*files: Path) -> Iterator[None]:
    """OpenSSL says what is wrong, and not with which files."""
    try:
        yield
    except (OSError, ValueError) as fault:  # ssl.SSLError is an OSError
        raise OSError(f"{' and '.join(map(str, files))} cannot be used: {fault}") from fault


def _tell_refused(context: ssl.SSLContext, lists: Sequence[x509.CertificateRevocationList]) -> None:
    """Say below which authorities of `client_ca` nobody is let in: a handshake that fails only the client sees."""
    try:
        listed = {each.issuer for each in lists}
        known = [x509.load_der_x509_certificate(each) for each in context.get_ca_certs(binary_form=True)]
        subjects = {each.subject for each in known}
    except ValueError:  # only OpenSSL can read them
        return
    if unlisted := subjects - listed:
        log.warning("`client_crl` has no list of these, so clients below them are refused: %s", _names(unlisted))
    joined = {each.subject for each in known if each.issuer in subjects}
    if missing := {each.issuer for each in known if each.subject not in joined}:
        log.warning(
            "`client_ca` lacks these, which its authorities are signed by, and with `client_crl` a chain goes on to its"
            " root, so clients below them are refused: %s",
            _names(missing),
        )


def _names(found: Iterable[x509.Name]) -> str:
    return "; ".join(sorted(each.rfc4514_string() for each in found)[:NAMED])


def _first_to_end(lists: Sequence[x509.CertificateRevocationList]) -> Term | None:
    """The term of the list that ends first; None where none ends."""
    terms = [_between(each.last_update_utc, each.next_update_utc) for each in lists if each.next_update_utc is not None]
    return min(terms, default=None)


def _between(begins: datetime, ends: datetime) -> Term:
    return Term(ends.timestamp(), (ends - begins).total_seconds())
