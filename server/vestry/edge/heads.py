"""The head of a request: what is wrong with it (RFC 9112 sections 3.2, 5.2, 6.3), and the answer to it on the wire."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vestry.errors import MalformedRequest, MethodNotAllowed, Refusal

HOST = re.compile(rb"^(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$")
TARGET = re.compile(rb"^/[!\"$-~]*$")
METHOD = re.compile(rb"^[\r\n]*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(?: |$)")
METHODS = "GET, POST"
OFFER = {b"upgrade", b"http2-settings"}
FRAMING = {b"host", b"content-length", b"transfer-encoding"}
Headers = Iterable[tuple[bytes, bytes]]


def wrong_repetition(headers: Headers) -> str | None:
    """What is wrong with headers of which some come more than once; None for nothing."""
    framing = [name for name, _ in headers if name in FRAMING]
    if len(set(framing)) != len(framing):
        return "A header that may come once, such as `Host`, comes twice."
    return None


def wrong_target(target: bytes, host: bytes, allowed_hosts: Collection[bytes]) -> str | None:
    """What is wrong with where a request goes. `allowed_hosts` are in lower case; empty for any."""
    if not TARGET.match(target):
        return "The request target must be a path."
    if not HOST.match(host):
        return "Exactly one valid `Host` header is needed."
    if allowed_hosts and _without_port(host) not in allowed_hosts:
        return "This server does not answer to that `Host`."
    return None


def wrong_length(version: str, fields: Mapping[bytes, bytes]) -> str | None:
    """What is wrong with how a request says where it ends."""
    encoding = fields.get(b"transfer-encoding")
    if version != "1.1" and (version != "1.0" or encoding is not None):
        return "HTTP/1.1 is spoken here."
    if encoding is not None and (b"content-length" in fields or encoding.lower() != b"chunked"):
        return "The length of the body is stated in more than one way."
    return None


def told(version: str, method: bytes, target: bytes, headers: Headers) -> dict[str, Any]:
    """What an application is told of it (ASGI); the rest of the scope is the same for all of a connection."""
    path, _, query = target.partition(b"?")
    readable = path.decode("ascii")
    return {
        "http_version": version,
        "method": method.decode("ascii"),
        "path": unquote(readable) if "%" in readable else readable,
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "state": {},
    }


def offers_http2(headers: Headers) -> bool:
    """Whether an upgrade is HTTP/2 in clear text (RFC 7540, section 3.2), and that alone: Java's client offers it with
    each call. A server may pass an offer over (RFC 9110, section 7.8).
    """
    return [value.lower() for name, value in headers if name == b"upgrade"] == [b"h2c"]


def without_offer(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The head of a request as if no upgrade had been offered."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            value = b", ".join(option for option in options if option.lower() not in OFFER)  # noqa: PLW2901
        if name not in OFFER:
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])


def fault_of(fault: Exception, data: bytes) -> Refusal:
    """What an error of the parser means. It knows the registered methods only, so that another one is its error."""
    if isinstance(fault, httptools.HttpParserInvalidMethodError) and METHOD.match(data):
        return MethodNotAllowed(METHODS)
    return MalformedRequest()


def answer_to(refusal: Refusal, request_id: str, default_headers: Headers) -> bytes:
    """The whole response that refuses what never became a call, and closes the connection."""
    body = refusal.body()
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        *(header for header in refusal.headers() if header[0] != b"connection"),
        (b"connection", b"close"),
    ]
    lines = [STATUS_LINE[refusal.status]]
    for name, value in headers:
        lines += [name, b": ", value, b"\r\n"]
    return b"".join([*lines, b"\r\n", body])


def _without_port(host: bytes) -> bytes:
    if host.startswith(b"["):
        return host[: host.index(b"]") + 1].lower()
    return host.partition(b":")[0].lower()
