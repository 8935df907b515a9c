"""Listening: whether a port is free, before something slow is started there, and where a listener is reached."""

from __future__ import annotations

import errno
import re
import socket
from contextlib import AbstractContextManager
from pathlib import Path

from vestry.models.alone import alone
from vestry.models.catalog import ModelError


def require_free(what: str, host: str, port: int, setting: str) -> None:
    """Raises ModelError if nothing new can listen there. Port 0 is always free.

    Of a name, as of `localhost`, the address of IPv4 counts: there servers and engines listen, whatever comes first.
    """
    if port == 0:
        return
    try:
        meant = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.getaddrinfo(host, port, meant, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as fault:
        if fault.errno == errno.EADDRINUSE:
            mend = f"Stop the program that listens there (`ss -ltnp` names it), or set `{setting}` to another port."
            raise ModelError(f"Port {port} on {host}, for {what}, is in use. {mend}") from None
        reason = fault.strerror or str(fault)
        raise ModelError(
            f"Nothing can listen on {host} port {port}, for {what}: {reason}. Look at `{setting}`."
        ) from None


def alone_at(url: str, state: Path) -> AbstractContextManager[None]:
    """Be the only one, of one state directory, that keeps an engine at this address. Raises ModelError.

    The port is free until the engine listens, which takes it long; and whoever waits for one there would take another's
    for its own, and start its own for ever.
    """
    place = re.sub(r"[^0-9A-Za-z.]", "-", url.partition("://")[2])
    mend = "Stop that one first, or give this one another `engine.port`."
    taken = f"Another `vestry engine` or `vestry up` keeps an engine at {url}. {mend}"
    return alone(state / f".engine-{place}.lock", taken)


def reachable(host: str) -> str:
    """The address at which this machine itself reaches a listener on `host`, as it stands in a URL."""
    if host in {"", "0.0.0.0"}:
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
