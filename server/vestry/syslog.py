"""What senders of syslog share: fields of a header (RFC 5424), frames (RFC 5425), and the end of a connection: the only
answer that there is (RFC 5425, section 4.4).

A receiver answers the sender's `close_notify` with its own, after it has read everything before. Many end without it;
that counts where TCP says that all bytes were acknowledged and that the end was a plain one: a receiver that closes
without having read all resets the connection instead (RFC 1122, 4.2.2.13). It may have said its `close_notify` before,
as a balancer does with nobody behind it, so that is waited for with either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import ssl
import struct
import termios

FACILITY = 13
"""Log audit (RFC 5424, section 6.2.1)."""
CLOSE_WAIT = 8
"""tcp(7), TCP_INFO: the other side has ended, and this one has not."""


class Spoke(OSError):  # noqa: N818 - what it did
    """The receiver sent something."""


def printable(text: str, most: int) -> str:
    """A text as a field of the header: visible ASCII, or the nil value (RFC 5424 section 6)."""
    return re.sub(r"[^\x21-\x7e]", "", text)[:most] or "-"


def framed(messages: list[bytes]) -> bytes:
    """Messages as they go over the wire: each behind its length in octets and a space (RFC 5425 section 4.3)."""
    return b"".join(b"%d %b" % (len(each), each) for each in messages)


def end(connection: socket.socket) -> None:
    """Say that nothing more comes, and wait until the receiver has read everything. The connection is not closed yet.

    Raises OSError where it may not have, Spoke among them.
    """
    if isinstance(connection, ssl.SSLSocket):
        try:
            connection.unwrap()
        except (ssl.SSLEOFError, ssl.SSLSyscallError):
            if not _plain(connection):
                raise
            return
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError as error:  # ENOTCONN: it was reset
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error
    if connection.recv(1):
        raise Spoke("the syslog receiver answers, which none does")
    if late := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(late, os.strerror(late))
    if _unacknowledged(connection) > 1:  # our own end may be
        raise ConnectionResetError(errno.ECONNRESET, "it was closed before all had arrived")


def _plain(connection: socket.socket) -> bool:
    """Whether TCP says that all was acknowledged, and that the other side has ended without a reset."""
    state: int = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return _unacknowledged(connection) == 0 and error == 0 and state == CLOSE_WAIT


def _unacknowledged(connection: socket.socket) -> int:
    """How many bytes TCP holds that the other side has not acknowledged."""
    left = bytearray(4)
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, left)
    found: int = struct.unpack("i", left)[0]
    return found
