"""Connections to other servers: sinks of checkpoints, identity providers. By the standard library, TLS or plain, with
one deadline over everything, in bounded memory.

A socket's own timeout is for one call, so a peer that sends a byte now and then could hold a thread for ever. Here a
timer shuts the socket at the deadline, whatever is being waited for. Only the resolver has its own times (resolv.conf).
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from vestry.faults import cause_of
from vestry.regular import NotRegular
from vestry.trust import trusting

Permitted = Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], bool]


class Undelivered(Exception):  # noqa: N818 - what became of what was sent
    """The other side did not take what it was sent, or did not answer. The sentence says why."""


class Peer(Struct, frozen=True):
    """Whom to connect to, and how. Without `tls` nothing is encrypted, and only `permitted` addresses are spoken to."""

    host: str
    port: int
    seconds: float
    """For the whole exchange."""
    tls: bool = True
    ca: Path | None = None
    """PEM file of authorities; the system's where there is none."""
    certificate: Path | None = None
    key: Path | None = None
    """Client certificate and its private key, PEM; read anew for every connection."""
    permitted: Permitted | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Answer(Struct, frozen=True):
    """An HTTP answer, whole."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Names in lower case."""


@contextmanager
def connected(peer: Peer) -> Iterator[socket.socket]:
    """A connection, checked (RFC 5280, RFC 6125 by OpenSSL) where it is TLS. It is shut `peer.seconds` from now.

    Raises Undelivered, for what happens inside of the block as well.
    """
    until = time.monotonic() + peer.seconds
    sockets: list[socket.socket] = []
    late = threading.Event()

    def shut() -> None:
        late.set()
        for each in sockets:
            with suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # not SSLSocket's: another thread is inside of it

    timer = threading.Timer(peer.seconds, shut)
    timer.daemon = True
    try:
        plain = socket.create_connection((peer.host, peer.port), timeout=peer.seconds)
        sockets.append(plain)
        plain.settimeout(max(0.01, until - time.monotonic()))
        timer.start()
        _permit(peer, plain)
        if peer.tls:
            context = trusting(peer.ca, peer.certificate, peer.key)
            wire = context.wrap_socket(plain, server_hostname=peer.host, do_handshake_on_connect=False)
            sockets[:] = [wire]
            wire.do_handshake()
            yield wire
        else:
            yield plain
        if late.is_set():  # an end that our own timer made is none of theirs
            raise TimeoutError
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Undelivered(f"{peer} {_sentence(error, late=late.is_set(), seconds=peer.seconds)}") from error
    finally:
        timer.cancel()
        for each in sockets:
            each.close()


def _permit(peer: Peer, plain: socket.socket) -> None:
    """Nothing goes to a public address in the clear, whatever a name resolves to."""
    address = ipaddress.ip_address(str(plain.getpeername()[0]).partition("%")[0])
    if not peer.tls and (peer.permitted is None or not peer.permitted(address)):
        raise Undelivered(f"{peer} is at a public address, and without TLS only private ones are spoken to")


def _sentence(error: Exception, *, late: bool, seconds: float) -> str:
    if late or isinstance(error, TimeoutError):
        return f"did not answer within {seconds:g} s"
    match error:
        case ssl.SSLCertVerificationError():
            said = f"shows a certificate that is not accepted: {error.verify_message}"
        case ssl.SSLError():
            said = f"cannot be spoken to by TLS ({error.reason or 'broken off'})"
        case socket.gaierror():
            said = "is a name that no address is known of"
        case FileNotFoundError() | PermissionError() | NotRegular():
            said = f"needs a file that cannot be read ({error.filename})"
        case ConnectionRefusedError():
            said = "refuses connections"
        case http.client.HTTPException() | ValueError():
            said = "answers what is no HTTP"
        case _:
            said = f"cannot be spoken to ({cause_of(error)})"
    return said


class Web(Struct, frozen=True):
    """An HTTP server: a base URL, http or https. Redirects are not followed, nor are proxies used."""

    peer: Peer
    path: str
    """What every target begins with; no slash at its end."""
    authority: str
    """For the Host header."""

    @classmethod
    def at(cls, url: str, *, seconds: float, ca: Path | None = None, permitted: Permitted | None = None) -> Web:
        """From a URL such as `https://host:port/path`. Raises ValueError."""
        parts = urlsplit(url)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise ValueError("write it as https://host, https://host:port or https://host/path")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        peer = Peer(parts.hostname, port, seconds, tls=tls, ca=ca, permitted=permitted)
        return cls(peer, parts.path.rstrip("/"), parts.netloc)

    def ask(
        self, method: str, target: str, *, limit: int, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """One request on a connection of its own; `target` as it goes over the wire, behind `path`.

        Raises Undelivered, also for an answer whose body is larger than `limit` bytes.
        """
        with connected(self.peer) as wire:
            talk = http.client.HTTPConnection(self.peer.host, self.peer.port)
            talk.sock = wire
            talk.putrequest(method, self.path + target, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": self.authority, "Connection": "close", **(headers or {})}.items():
                talk.putheader(name, value)
            if body or method in {"POST", "PUT"}:
                talk.putheader("Content-Length", str(len(body)))
            talk.endheaders(body)
            with talk.getresponse() as answer:
                content = answer.read(limit + 1)
                if len(content) > limit:
                    raise Undelivered(f"{self.peer} answers with more than {limit} bytes")
                if answer.length:  # bytes that were announced and did not come
                    raise http.client.IncompleteRead(content, answer.length)
                return Answer(answer.status, content, {name.lower(): value for name, value in answer.getheaders()})
