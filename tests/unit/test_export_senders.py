"""The ways to a receiver, where they are cut off."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import pytest

from support.receivers import Authority, Collector
from vestry.adapters.http_batches import HttpBatches
from vestry.adapters.syslog_tls import SyslogTls
from vestry.trust import trusting


class Tap:
    """Passes one connection on, and keeps what goes to the receiver. Use as a context manager."""

    def __init__(self, port: int) -> None:
        self.heard = b""
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def ended(self) -> bytes:
        """All that was sent, once the sender has ended the connection."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.heard

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._to))
        back = threading.Thread(target=self._back, args=(far, near), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while data := near.recv(65_536):
                self.heard += data
                far.sendall(data)
        far.close()

    @staticmethod
    def _back(far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65_536):
                near.sendall(data)


@pytest.mark.parametrize("kind", ["syslog", "http"])
def test_what_is_cut_off_in_the_middle_says_nothing_in_the_clear(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is sending goes on for a moment while another one shuts its connection: that is TLS still."""
    authority = Authority(tmp_path)
    with Collector(context=authority.context) as receiver, Tap(receiver.port) as tap:
        sender: SyslogTls | HttpBatches
        if kind == "syslog":
            sender = SyslogTls("localhost", tap.port, lambda: trusting(authority.ca), seconds=5)
        else:
            url = f"https://localhost:{tap.port}/"
            sender = HttpBatches(url, lambda: trusting(authority.ca), authorization=lambda: "", seconds=5)
        sender.send(b"")
        connection = sender._connection
        wire = connection if isinstance(connection, socket.socket) or connection is None else connection.sock
        shut = socket.socket.shutdown

        def at_that_moment(self: socket.socket, how: int) -> None:
            assert wire is not None
            wire.send(b"a record")
            shut(self, how)

        monkeypatch.setattr(socket.socket, "shutdown", at_that_moment)
        sender.abort()
        monkeypatch.undo()
        sender.close()
        assert b"a record" not in tap.ended()


@pytest.mark.parametrize("polite", [True, False])
def test_a_syslog_receiver_that_ends_an_idle_connection_is_told_of(tmp_path: Path, polite: bool) -> None:
    """Its limit is shorter than the export waits; what it did with what it read nobody knows. The page tells of it."""
    authority, closed = Authority(tmp_path), threading.Event()

    def serve(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        wire = authority.context.wrap_socket(plain, server_side=True)
        assert wire.recv(100) == b"5 hello"
        if polite:
            wire.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                wire.unwrap()
        wire.close()
        closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        sender = SyslogTls("localhost", port, lambda: trusting(authority.ca), seconds=5)
        sender.send(b"5 hello")
        assert closed.wait(10)
        with pytest.raises(OSError, match="the receiver has closed the connection"):
            sender.confirm()


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
def test_an_answer_that_trickles_has_an_end(more: bytes) -> None:
    """However it goes on, a byte at a time: the whole exchange is bounded, that on a last answer too."""
    done = threading.Event()

    def trickle(listener: socket.socket) -> None:
        wire, _ = listener.accept()
        wire.recv(65_536)
        wire.sendall(b"HTTP/1.1 503 Busy\r\n" + more + b"Content-Length: 60000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not done.wait(0.05):
                wire.sendall(b"x")
        wire.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickle, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        sender = HttpBatches(url, ssl.create_default_context, authorization=str, seconds=0.3)
        late = threading.Timer(10, done.set)
        late.start()
        with pytest.raises(OSError, match=r"answered|closed|reset|timed out"):  # how far it came is the machine's
            sender.send(b"{}\n")
        assert not done.is_set(), "it went on for as long as the collector liked"
        late.cancel()
        done.set()


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("30", 30, 30),
        ("0", 0, 0),
        ("Fri, 31 Dec 2199 23:59:59 GMT", 1e9, 1e10),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
        ("", 0, 0),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("9" * 400, 0, 0),
        ("Fri, 31 Dec 99999999 23:59:59 GMT", 0, 0),
    ],
)
def test_what_retry_after_asks_for(asked: str, least: float, most: float) -> None:
    """Seconds or a date, as RFC 9110 has it; what is neither asks for nothing."""
    with Collector() as collector:
        collector.answer, collector.retry_after = (lambda _body: 503), asked
        sender = HttpBatches(collector.url, ssl.create_default_context, authorization=str, seconds=5)
        with pytest.raises(OSError, match="the collector answered 503"):
            sender.send(b"{}\n")
        assert least <= sender.wait <= most
