"""Sends syslog frames over TLS (RFC 5425), and finds out whether they arrived.

The protocol has no answers: what was written to a connection that breaks may or may not have been read. So the sender
closes the connection now and then, which the receiver answers with its own end (RFC 5425 section 4.4) after it has read
everything before. Until then nothing counts as delivered. Many receivers end without TLS's `close_notify`; that counts
where TCP says that all bytes were acknowledged and that the end was a plain one: a receiver that closes without having
read all resets the connection instead (RFC 1122, 4.2.2.13).

Blocking; for one thread, but for `abort`.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
from collections.abc import Callable

CLOSE_WAIT = 8
"""tcp(7), TCP_INFO: the other side has ended, and this one has not."""


class SyslogTls:
    """One receiver. Every method but `abort` and `close` raises OSError."""

    def __init__(self, host: str, port: int, context: Callable[[], ssl.SSLContext], *, seconds: float) -> None:
        self._host, self._port, self._context, self._seconds = host, port, context, seconds
        self._connection: ssl.SSLSocket | None = None

    def send(self, payload: bytes) -> bool:
        """Write frames. False: whether they arrived is not known yet."""
        connection = self._connection
        if connection is not None and _ended(connection):
            self.close()
            raise ConnectionResetError("the receiver has closed the connection")
        if connection is None:
            connection = self._connect()
        connection.settimeout(self._seconds)
        connection.sendall(payload)
        return False

    def confirm(self) -> None:
        """Returns once everything that was sent on this connection has arrived; it is closed then."""
        connection = self._connection
        if connection is None:
            raise ConnectionResetError("the connection is gone")
        try:
            connection.settimeout(self._seconds)
            try:
                connection.unwrap()
            except (ssl.SSLEOFError, ssl.SSLSyscallError):
                if not _plain_end(connection):
                    raise
        finally:
            self.close()

    def abort(self) -> None:
        """Let whatever another thread waits for here fail."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((self._host, self._port), timeout=self._seconds)
        try:
            self._connection = self._context().wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise
        return self._connection


def _ended(connection: ssl.SSLSocket) -> bool:
    """Whether the other side has closed. What else it says is thrown away: a receiver has nothing to say."""
    while connection.pending() or select.select([connection], [], [], 0)[0]:
        connection.settimeout(0)
        try:
            if not connection.recv(4096):
                return True
        except ssl.SSLWantReadError:  # something of TLS's own
            return False
        except OSError:
            return True
    return False


def _plain_end(connection: ssl.SSLSocket) -> bool:
    """Whether TCP says that all was acknowledged, and that the other side has ended without a reset."""
    left = bytearray(4)
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, left)
    state: int = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return struct.unpack("i", left)[0] == 0 and error == 0 and state == CLOSE_WAIT
