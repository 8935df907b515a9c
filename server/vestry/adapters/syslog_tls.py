"""Sends syslog frames over TLS (RFC 5425), and finds out whether they arrived.

The protocol has no answers: what was written to a connection that breaks may or may not have been read. So the sender
ends the connection now and then, which the receiver answers with its own end once it has read everything before
(`vestry.syslog`). Until then nothing counts as delivered.

Blocking; for one thread, but for `abort`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable

from vestry.syslog import end


class SyslogTls:
    """One receiver. Every method but `abort` and `close` raises OSError."""

    wait = 0.0

    def __init__(self, host: str, port: int, context: Callable[[], ssl.SSLContext], *, seconds: float) -> None:
        self._host, self._port, self._context, self._seconds = host, port, context, seconds
        self._connection: ssl.SSLSocket | None = None

    def send(self, payload: bytes) -> bool:
        """Write frames. False: whether they arrived is not known yet."""
        connection = self._connection
        if connection is not None:
            self._look(connection)
        else:
            connection = self._connect()
        connection.settimeout(self._seconds)
        connection.sendall(payload)
        return False

    def confirm(self) -> None:
        """Returns once everything that was sent on this connection has arrived; it is closed then."""
        connection = self._connection
        if connection is None:
            raise ConnectionResetError("the connection is gone")
        self._look(connection)
        try:
            connection.settimeout(self._seconds)
            end(connection)
        finally:
            self.close()

    def abort(self) -> None:
        """Let whatever another thread waits for here fail."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)  # SSLSocket's own goes on in the clear first

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _look(self, connection: ssl.SSLSocket) -> None:
        """Raises OSError where the receiver ended first: whether it has taken what it read, nobody knows."""
        if _ended(connection):
            self.close()
            raise ConnectionResetError("the receiver has closed the connection")

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
    wire = select.poll()  # select(2) knows no descriptor beyond 1023, which a busy server has
    wire.register(connection, select.POLLIN)
    while connection.pending() or wire.poll(0):
        connection.settimeout(0)
        try:
            if not connection.recv(4096):
                return True
        except ssl.SSLWantReadError:  # something of TLS's own
            return False
        except OSError:
            return True
    return False
