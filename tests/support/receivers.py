"""What a SIEM does: a strict syslog receiver over TLS (RFC 5424, 5425), and an HTTP collector. Both can misbehave."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

HEADER = re.compile(
    rb"<(?P<pri>[1-9][0-9]{0,2}|0)>1 "
    rb"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})) "
    rb"(?P<host>[\x21-\x7e]{1,255}) (?P<app>[\x21-\x7e]{1,48}) (?P<proc>[\x21-\x7e]{1,128}) "
    rb"(?P<msgid>[\x21-\x7e]{1,32}) "
    rb'(?P<data>-|(\[[^ =\]"]{1,32}( [^ =\]"]{1,32}="([^"\\\]]|\\["\\\]])*")*\])+)( (?P<text>.*))?',
    re.DOTALL,
)
BOM = b"\xef\xbb\xbf"


class Message:
    """One message, as RFC 5424 section 6 reads it. Raises AssertionError for what is not one."""

    def __init__(self, raw: bytes) -> None:
        found = HEADER.fullmatch(raw)
        assert found is not None, f"no syslog message: {raw[:200]!r}"
        self.facility, self.severity = divmod(int(found["pri"]), 8)
        assert self.facility < 24
        self.kind = found["msgid"].decode()
        text = found["text"] or b""
        assert text.isascii() or text.startswith(BOM), "text that is not ASCII begins with a byte order mark"
        self.text = text.removeprefix(BOM).decode("utf-8")


def frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole frames of octet counting (RFC 5425 section 4.3), and what is left."""
    found = []
    while head := re.match(rb"[1-9][0-9]{0,5} ", data):
        end = head.end() + int(head[0])
        if len(data) < end:
            break
        found.append(data[head.end() : end])
        data = data[end:]
    assert re.fullmatch(rb"([1-9][0-9]{0,5}( .*)?)?", data, re.DOTALL), f"no frame: {data[:100]!r}"
    return found, data


class Authority:
    """A certificate authority of the tests, and a server's certificate for localhost."""

    def __init__(self, folder: Path, name: str = "localhost") -> None:
        authority = trustme.CA()
        self.ca = folder / "siem-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self.context)


class SyslogReceiver:
    """Takes messages over TLS. `cut_after` resets a connection after so many of its bytes, unread ones included.

    `polite` answers the sender's end with one of its own; else the connection is closed without `close_notify`. One
    that `forgets` answers it with a reset, which says nothing of what it has read.
    """

    def __init__(self, authority: Authority, port: int = 0) -> None:
        self.messages: list[Message] = []
        self.connections = 0
        self.cut_after: int | None = None
        self.polite = True
        self.forgets = False
        self._authority = authority
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"tls://localhost:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> SyslogReceiver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Go down at once, with everything that is connected."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            reset(each)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        self.connections += 1
        self._open.add(plain)
        with contextlib.suppress(OSError):
            connection = self._authority.context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
            self._open.add(connection)
            self._read(connection)
            self._open.discard(connection)
        self._open.discard(plain)

    def _read(self, connection: ssl.SSLSocket) -> None:
        rest, taken = b"", 0
        while data := connection.recv(16_384):
            taken += len(data)
            if self.cut_after is not None and taken >= self.cut_after:
                self.cut_after = None
                reset(connection)
                return
            found, rest = frames(rest + data)
            self.messages += map(Message, found)
        assert not rest, "the sender ended inside of a frame"
        if self.forgets:
            reset(connection)
            return
        if self.polite:
            with contextlib.suppress(OSError):
                connection.unwrap()
        connection.close()


def reset(connection: socket.socket) -> None:
    """Close with a reset (socket(7), SO_LINGER of no time)."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


class Collector:
    """Takes batches over HTTP. `answer` says what each gets: a status, or `hang`, `reset`, `garbage`."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.batches: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.asked = 0
        self.answer: Callable[[bytes], int | str] = lambda _body: 200
        self.retry_after = ""
        self.released = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.take(self)

            def log_message(self, *_: Any) -> None: ...

        class Listener(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...

        self._server: socketserver.TCPServer = Listener(("127.0.0.1", port), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://localhost:{self.port}/records"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Go down."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def lines(self) -> list[bytes]:
        """Every line of every batch that was taken."""
        return [line for batch in self.batches for line in batch.splitlines()]

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """One batch."""
        body = request.rfile.read(int(request.headers["content-length"]))
        self.asked += 1
        answer = self.answer(body)
        if answer == "hang":
            self.released.wait(30)
            return
        if answer == "reset":
            reset(request.connection)
            return
        if answer == "garbage":
            request.wfile.write(b"\x00\x01 what\r\n\r\n")
            request.close_connection = True
            return
        if answer == 200:
            self.headers.append(dict(request.headers))
            self.batches.append(body)
        request.send_response(int(answer))
        if answer != 200 and self.retry_after:
            request.send_header("retry-after", self.retry_after)
        request.send_header("content-length", "0")
        request.end_headers()
