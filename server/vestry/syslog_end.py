"""The end of a connection to a syslog receiver over TLS: the only answer that there is (RFC 5425, section 4.4).

A receiver answers the sender's `close_notify` with its own, after it has read everything before. Many end without it;
that counts where TCP says that all bytes were acknowledged and that the end was a plain one: a receiver that closes
without having read all resets the connection instead (RFC 1122, 4.2.2.13).
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios

CLOSE_WAIT = 8
"""tcp(7), TCP_INFO: the other side has ended, and this one has not."""


def end(connection: ssl.SSLSocket) -> None:
    """Say that nothing more comes, and wait until the receiver has read everything. The connection is not closed yet.

    Raises OSError where it may not have.
    """
    try:
        connection.unwrap()
    except (ssl.SSLEOFError, ssl.SSLSyscallError):
        if not _plain(connection):
            raise


def _plain(connection: socket.socket) -> bool:
    """Whether TCP says that all was acknowledged, and that the other side has ended without a reset."""
    left = bytearray(4)
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, left)
    state: int = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return struct.unpack("i", left)[0] == 0 and error == 0 and state == CLOSE_WAIT
