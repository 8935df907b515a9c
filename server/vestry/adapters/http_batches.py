"""Posts batches of lines to an HTTP collector: NDJSON, one request a batch, delivered once the answer is 2xx.

Redirects are not followed, and no proxy is used. Blocking; for one thread, but for `abort`.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

ANSWER_BYTES = 65_536


class HttpBatches:
    """One collector. Every method but `abort` and `close` raises OSError."""

    def __init__(
        self,
        url: str,
        context: Callable[[], ssl.SSLContext],
        *,
        authorization: Callable[[], str],
        seconds: float,
    ) -> None:
        """`authorization` gives the header's value, empty for none; it is asked for each connection."""
        parts = urlsplit(url)
        self._host, self._port, self._tls = parts.hostname or "", parts.port, parts.scheme == "https"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._context, self._authorization, self._seconds = context, authorization, seconds
        self._connection: http.client.HTTPConnection | None = None
        self._wire: socket.socket | None = None
        self._header = ""
        self.wait = 0.0

    def send(self, payload: bytes) -> bool:
        """Post one batch. True: it has arrived."""
        used = self._connection is not None
        self.wait = 0.0
        try:
            status = self._post(payload)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not used:
                raise _as_os_error(error) from error
            try:  # an idle connection may have been closed by the other side
                status = self._post(payload)
            except http.client.HTTPException as again:
                self.close()
                raise _as_os_error(again) from again
        if not 200 <= status < 300:
            self.close()
            raise OSError(f"the collector answered {status}")
        return True

    def confirm(self) -> None:
        """Nothing is ever open here: an answer says it all."""

    def abort(self) -> None:
        """Let whatever another thread waits for here fail."""
        if self._wire is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._wire, socket.SHUT_RDWR)  # SSLSocket's own goes on in the clear first

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, payload: bytes) -> int:
        if self._connection is None:
            self._header = self._authorization()
            self._connection = self._connected()
        connection = self._connection
        headers = {"Content-Type": "application/x-ndjson", "User-Agent": "vestry"}
        if self._header:
            headers["Authorization"] = self._header
        with self._bounded():
            connection.request("POST", self._path, body=payload, headers=headers)
            answer = connection.getresponse()
            answer.read(ANSWER_BYTES)
        if not answer.isclosed() or answer.will_close:
            self.close()
        if not 200 <= answer.status < 300:
            self.wait = _seconds(answer.getheader("Retry-After", ""))
        return answer.status

    def _connected(self) -> http.client.HTTPConnection:
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=self._seconds, context=self._context())
            if self._tls
            else http.client.HTTPConnection(self._host, self._port, timeout=self._seconds)
        )
        connection.connect()
        self._wire = connection.sock  # the connection lets go of it where an answer is its last: that is still read
        return connection

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        """A bound on the whole exchange: a socket's own is for each piece, however small."""
        timer = threading.Timer(self._seconds, self.abort)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _seconds(asked: str) -> float:
    """What Retry-After asks for: seconds, or a date (RFC 9110, section 10.2.3); 0 for what is neither."""
    if re.fullmatch("[0-9]{1,9}", asked):
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return 0.0


def _as_os_error(error: Exception) -> OSError:
    """What it sent instead of HTTP is not repeated: it is as long as it likes, and goes to the log."""
    return error if isinstance(error, OSError) else OSError(f"the collector answered no HTTP ({type(error).__name__})")
