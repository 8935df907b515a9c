"""The network: the server's own ports, and the engines'."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from vestry.diagnosis.findings import Finding
from vestry.models.ports import reachable
from vestry.settings.tree import Settings
from vestry.trust import trusting

ANSWER_SECONDS = 2.0
ANSWER_BYTES = 65_536

UNKNOWN = frozenset({"invalid_api_key", "malformed_request", "authentication_unavailable"})
"""What the server says to whoever shows no credential, or names a host that it is not called by."""

Answer = tuple[int, bytes]


class Port(NamedTuple):
    """One of the ports that ask for a credential."""

    name: str
    said: str
    path: str
    setting: str


API = Port("api", "API", "/v1/models", "server.port")
ADMINISTRATION = Port("admin", "administration", "/admin/v1/whoami", "server.admin_port")


def server(settings: Settings) -> Iterator[Finding]:
    """Whether a server answers on the ports of the settings, or where a running one says that it is."""
    at = addresses(settings)
    ready = ask(at["ops"], "/readyz")
    if ready is None:
        mend = "Start it: vestry serve, or make up"
        yield Finding("server", "warn", f"nothing answers at {at['ops']} (operations)", mend)
    elif ready[0] != 200:
        why = _missing(ready[1])
        yield Finding("server", "warn", f"it is not ready: {why}", "See the lines about its parts, and its own log")
    else:
        yield Finding("server", "ok", f"ready, says {at['ops']}")
    for port in (API, ADMINISTRATION):
        yield from _answering(port, at[port.name], running=ready is not None)


def _answering(port: Port, at: str, *, running: bool) -> Iterator[Finding]:
    """Whether what answers there is ours: without a credential it says so in an error of our shape."""
    called = ask(at, port.path)
    if called is not None and _code(called[1]) in UNKNOWN:
        yield Finding("server", "ok", f"the {port.said} answers at {at}")
    elif called is not None:
        mend = f"Another program may have the port: give `{port.setting}` another number"
        yield Finding("server", "fail", f"what answers at {at} is not this server's {port.said}", mend)
    elif running:
        mend = "See the server's own log; with `client_certificates: required` only clients that have one are answered"
        yield Finding("server", "warn", f"the {port.said} does not answer at {at}", mend)


def engines(settings: Settings) -> Iterator[Finding]:
    """Whether each engine answers `/health`."""
    for name, model in settings.models.items():
        own = f"http://{reachable(model.engine.host)}:{model.engine.port}"
        for url in [each.url for each in model.replicas] or [own]:
            answer = ask(url, "/health")
            if answer is None:
                mend = f"Start it: vestry engine {name}" if url == own else "Start it, and look at the way to it"
                yield Finding("engine", "warn", f"{name} does not answer at {url}", mend)
            elif answer[0] != 200:
                yield Finding("engine", "warn", f"{name} at {url} answers {answer[0]}", "See the engine's own log")
            elif url.startswith("https:") and not _trusted(url, settings.relay.ca):
                what = f"{name} at {url} shows a certificate that the server does not accept"
                yield Finding(
                    "engine", "fail", what, "Name its authority in `relay.ca`, and the engine as the certificate does"
                )
            else:
                yield Finding("engine", "ok", f"{name} is healthy at {url}")


def _trusted(url: str, ca: Path | None) -> bool:
    """Whether the server would send calls there."""
    try:
        return ask(url, "/health", trusting(ca)) is not None
    except (OSError, ValueError):  # the line about the settings says it
        return False


def addresses(settings: Settings) -> dict[str, str]:
    """Where API, operations and administration are: as a running server has noted, else as the settings say."""
    server = settings.server
    scheme = "http" if server.tls is None else "https"
    found = {
        "api": f"{scheme}://{reachable(server.host)}:{server.port}",
        "ops": f"http://{reachable(server.ops_host)}:{server.ops_port}",
        "admin": f"{scheme}://{reachable(server.admin_host)}:{server.admin_port}",
    }
    if server.port and server.ops_port and server.admin_port:
        return found
    try:
        note = json.loads((settings.state / "server.json").read_bytes())
        return {name: str(note[name]) for name in found}
    except (OSError, ValueError, KeyError, TypeError):
        return found


def ask(origin: str, path: str, trust: ssl.SSLContext | None = None) -> Answer | None:
    """GET; the status and the beginning of the body, or None where nothing answers in HTTP within the time, or with TLS
    nothing that is in `trust`; without that, certificates are not looked at.

    A timeout of a connection is for each read: what sends a byte now and then would hold the diagnosis for ever.
    """
    parts = urlsplit(origin)
    if parts.hostname is None or not parts.port:
        return None
    if parts.scheme == "https":
        context = trust or _anybody()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=ANSWER_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=ANSWER_SECONDS)
    late = threading.Event()
    held: list[socket.socket] = []
    timer = threading.Timer(ANSWER_SECONDS, _shut, (connection, held, late))
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        held.append(connection.sock)  # the connection lets go of it where the answer is its last one
        connection.request("GET", path)
        answer = connection.getresponse()
        found = answer.status, answer.read(ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        timer.cancel()
        connection.close()
    return None if late.is_set() else found


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _shut(connection: http.client.HTTPConnection, held: list[socket.socket], late: threading.Event) -> None:
    """End what is being waited for there."""
    late.set()
    for each in held or [connection.sock]:
        with contextlib.suppress(OSError, TypeError):  # there may be no socket yet, or none any more
            socket.socket.shutdown(each, socket.SHUT_RDWR)  # not SSLSocket's: another thread is inside of it


def _code(body: bytes) -> str:
    """The code of an error in OpenAI's shape."""
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _missing(body: bytes) -> str:
    """What `/readyz` says is missing."""
    try:
        return "; ".join(f"{part}: {why}" for part, why in json.loads(body)["missing"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return "it does not say why"
