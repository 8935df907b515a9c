"""A client's end of a connection, byte by byte: what no HTTP library would send, and what comes back."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from types import TracebackType
from typing import Any

import httpx

PATIENCE = 15.0


class Wire:
    """One connection to 127.0.0.1. Use as a context manager."""

    def __init__(
        self,
        port: int,
        *,
        source: str = "127.0.0.1",
        receive_buffer: int | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        plain = socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(PATIENCE)
        plain.bind((source, 0))
        plain.connect(("127.0.0.1", port))
        self.socket = plain if context is None else context.wrap_socket(plain, server_hostname="localhost")
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send as much of it as the server takes: one that has answered and closed may take less."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def drip(self, data: bytes, *, seconds: float) -> None:
        """Send one byte after another, with a pause after each, until the server answers or closes."""
        for place in range(len(data)):
            self.send(data[place : place + 1])
            if self.readable(seconds):
                return

    def readable(self, seconds: float) -> bool:
        """Whether an answer, or the end, comes within this time."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) is not None
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)

    def answer(self) -> httpx.Response:
        """The next response, read by its own framing. Raises AssertionError where there is none, or half of one."""
        status, headers = self._head()
        return httpx.Response(status, headers=headers, content=self._body(status, dict(headers)))

    def head(self) -> httpx.Response:
        """The next response, which has no body because it answers HEAD."""
        status, headers = self._head()
        return httpx.Response(status, headers=headers)

    def _head(self) -> tuple[int, list[tuple[str, str]]]:
        line = self._file.readline().decode("latin-1")
        assert line.startswith("HTTP/1.1 "), f"not a response: {line!r}"
        headers: list[tuple[str, str]] = []
        while (header := self._file.readline().decode("latin-1")) != "\r\n":
            assert header.endswith("\r\n"), "the connection closed inside the headers"
            name, _, value = header.partition(":")
            headers.append((name.lower(), value.strip()))
        return int(line.split(" ")[1]), headers

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status < 200:
            return b""
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self._chunk, b""))
        if "content-length" not in headers:
            return self._file.read()
        length = int(headers["content-length"])
        body = self._file.read(length)
        assert len(body) == length, "the connection closed inside the body"
        return body

    def _chunk(self) -> bytes:
        size = int(self._file.readline(), 16)
        chunk = self._file.read(size)
        assert len(chunk) == size, "the connection closed inside a chunk"
        assert self._file.read(2) == b"\r\n", "a chunk does not end as it should"
        return chunk

    def take(self, count: int) -> bytes:
        """The next so many bytes."""
        return self._file.read(count)

    def line(self) -> bytes:
        """The next line, whatever it is; empty at the end of the connection."""
        return self._file.readline()

    def rest(self) -> bytes:
        """Whatever still comes, until the server closes the connection. Raises AssertionError if it does not."""
        try:
            return self._file.read()
        except ConnectionError:
            return b""
        except TimeoutError:
            raise AssertionError("the server did not close the connection") from None

    def closed(self) -> bool:
        """Whether the server closes the connection now, without another byte."""
        return self.rest() == b""


class Handshake:
    """A TLS client that stops before its last flight, in which it shows its certificate. Use as a context manager."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        assert not self._went_on()
        self._flush()
        self._receive()

    def __enter__(self) -> Handshake:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def finish(self) -> None:
        """Go on to the end."""
        while not self._went_on():
            self._receive()
        self._flush()

    def ask(self, data: bytes) -> bytes:
        """Send, and give what comes first; empty where the server has closed the connection."""
        with contextlib.suppress(ConnectionError):
            self._tls.write(data)
            self._flush()
            while True:
                try:
                    return self._tls.read(65_536)
                except ssl.SSLWantReadError:
                    self._receive()
        return b""

    def _went_on(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _flush(self) -> None:
        self.socket.sendall(self._out.read())

    def _receive(self) -> None:
        data = self.socket.recv(65_536)
        self._in.write(data) if data else self._in.write_eof()


def request(
    method: str = "GET",
    target: str = "/v1/models",
    *lines: str,
    body: bytes = b"",
    host: str | None = "localhost",
    version: str = "1.1",
) -> bytes:
    """The bytes of a request. `lines` are its header lines; Host is added, and Content-Length where there is a body."""
    head = [f"{method} {target} HTTP/{version}", *lines]
    if host is not None:
        head.insert(1, f"Host: {host}")
    if body and not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def chat_request(key: str, body: Any, *lines: str) -> bytes:
    """The bytes of a good call of the chat route; `body` is bytes, or a value that is written as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = (f"Authorization: Bearer {key}", "Content-Type: application/json", *lines)
    return request("POST", "/v1/chat/completions", *headers, body=raw)


def chunked(*pieces: bytes) -> bytes:
    """A body in chunks (RFC 9112 section 7.1), with its last one."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a file of the file system
        return int(file.read().split()[1]) * 4096
