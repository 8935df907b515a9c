"""HTTP/1.1 towards the engines: a small client made for one purpose, because it is most of a gateway's cost.

Rules:
- A connection carries one exchange at a time and is reused after a complete answer; whether it may be is asked of
  the parser inside `on_message_complete`, the only place where httptools knows.
- Bytes go from the socket to the exchange in the same callback: no queue, no task, no future per chunk.
- Only permitted addresses are called (`names.py`); of several the first that takes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import httptools

from vestry.adapters.names import Addresses
from vestry.addresses import Address
from vestry.errors import EngineFailed
from vestry.seams import Exchange, Pieces
from vestry.trust import Authorities

IDLE_SECONDS = 4.0  # less than vLLM's keep-alive of 5 s
STALE_SECONDS = 0.1  # a way there and back: what was closed while idle is told so by then, and later it was at work
MAX_IDLE = 512
MAX_FRAMING = 65_536
"""Bytes without one of the body: of headers, of what comes before them, of a chunk's extensions, of trailers."""
MUCH = 65_536
"""Bytes read at once after which others have a turn: libuv reads up to 32 times 256 KiB before it looks elsewhere."""
LONG = 16_384
"""Bytes of a request that are gone as soon as they are sent, whoever reads (tcp(7), `tcp_wmem`)."""


class Upstream:
    """The connections to one replica. Implements seams.Engine. Fails closed, never waits past
    `connect_seconds`."""

    def __init__(
        self,
        url: str,
        *,
        key: str,
        connect_seconds: float,
        permitted: Callable[[Address], bool],
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or Authorities(None).context) if parts.scheme == "https" else None
        self._connect_seconds = connect_seconds
        self._addresses = Addresses(self._host, self._port, permitted)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._common = f"host: {parts.netloc}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        self.opened = 0

    async def send(
        self,
        method: str,
        path: str,
        body: Pieces,
        exchange: Exchange,
        *,
        headers: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> Connection:
        """Send one request; its answer goes to `exchange`. Returns the connection, to pause or close it.

        `fresh` asks for a new connection. Raises EngineFailed with cause `connect`.
        """
        head = f"{method} {path} HTTP/1.1\r\n{self._common}"
        for name, value in (headers or {}).items():
            head += f"{name}: {value}\r\n"
        head += f"content-length: {sum(map(len, body))}\r\n\r\n"
        request = b"".join((head.encode(), *body))
        connection = (None if fresh else self._take_idle()) or await self._connect()
        self._busy.add(connection)
        connection.begin(exchange, request)
        return connection

    def _take_idle(self) -> Connection | None:
        oldest = time.monotonic() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._connect_seconds
        try:
            addresses = await self._addresses.find(end)
            async with asyncio.timeout_at(end):
                connection = await self._first_of(addresses, end)
        except (OSError, TimeoutError) as fault:
            raise EngineFailed("connect") from fault
        self.opened += 1
        return connection

    async def _first_of(self, addresses: list[str], end: float) -> Connection:
        """A connection to the first address that takes one. Each but the last has its share of the time that is left:
        one that does not answer keeps no other from being asked. Raises OSError, TimeoutError.
        """
        loop = asyncio.get_running_loop()
        for left in range(len(addresses) - 1, 0, -1):
            with contextlib.suppress(OSError):  # a TimeoutError is one
                async with asyncio.timeout((end - loop.time()) / (left + 1)):
                    return await self._to(addresses[-left - 1])
        return await self._to(addresses[-1])

    async def _to(self, address: str) -> Connection:
        loop, context = asyncio.get_running_loop(), self._tls() if self._tls else None
        below, connection = await loop.create_connection(lambda: Connection(self), address, self._port)
        if context is not None:
            try:
                above = await loop.start_tls(below, connection, context, server_hostname=self._host)
            except BaseException:  # cancelled before it begins, it would leave the connection open
                below.abort()
                raise
            connection.secured(above)
        return connection

    def give_back(self, connection: Connection, *, reusable: bool) -> None:
        """Called by the connection when its exchange is over."""
        self._busy.discard(connection)
        if reusable and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def forget(self, connection: Connection) -> None:
        """Called by a connection that closes."""
        self._busy.discard(connection)

    def close(self) -> None:
        """Close every connection, those in use too."""
        for connection in [*self._idle, *self._busy]:
            connection.close()
        self._idle.clear()


class Connection(asyncio.Protocol):
    """One connection to a replica. Implements seams.Wire."""

    def __init__(self, pool: Upstream) -> None:
        self._pool = pool
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport  # from connection_made on, which comes before everything else
        self._below: asyncio.Transport  # the same, or what TLS reads from
        self._content_type = b""
        self._framing = 0
        self._heard = self._long = False
        self._reused = False
        self._paused = False
        self._dropped = False
        self._began = 0.0
        self.closed = False
        self.idle_since = 0.0

    def begin(self, exchange: Exchange, request: bytes) -> None:
        """Send a request and listen for its answer."""
        self._reused = self._reused or self._heard
        self._exchange = exchange
        self._content_type = b""
        self._framing = 0
        self._heard = False
        self._long = len(request) > LONG
        self._began = time.monotonic()
        self._transport.write(request)

    def close(self) -> None:
        """Close at once; the exchange hears nothing more."""
        self._exchange = None
        self.closed = True
        self._pool.forget(self)
        self._transport.abort()

    @property
    def usable(self) -> bool:
        """True while the connection is open."""
        return not self.closed and not self._transport.is_closing()

    @property
    def stale(self) -> bool:
        """True if this connection had served before, and the engine closed it as soon as it was asked again."""
        return self._reused and self._dropped and not self._heard

    def pause(self, paused: bool) -> None:
        """Stop or go on reading."""
        if not self.usable:
            return
        self._paused = paused
        if paused:  # below TLS: there uvloop goes on reading, and drops what it has if the end comes meanwhile
            self._below.pause_reading()
        else:
            self._below.resume_reading()

    # asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._below = transport  # type: ignore[assignment]

    def secured(self, transport: asyncio.Transport | None) -> None:
        """What is sent goes through this one from now on, which speaks TLS."""
        self._transport = transport  # type: ignore[assignment]  # None is for a connection that is lost before

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.close()
            return
        self._heard = True
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("the engine's answer is not HTTP")
        if self._framing > MAX_FRAMING:
            self._fail("the engine's headers are too long")
        if len(data) >= MUCH and not self._paused and self.usable:
            self._below.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._paused and self.usable:
            self._below.resume_reading()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's shape
        self._dropped = not self.closed and time.monotonic() - self._began < STALE_SECONDS
        self.closed = True
        if self._exchange is not None:
            self._fail("the engine closed the connection")
        del self._parser  # it refers back: without it all of this is freed at once

    def _fail(self, why: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self.close()
            exchange.on_end(why)

    # httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._exchange is None:  # nobody asked: were it kept, the next call would get this answer
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._content_type = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._exchange is not None and status >= 200:
            self._exchange.on_head(status, self._content_type)

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        if self._exchange is not None:
            self._exchange.on_data(body)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        exchange, self._exchange = self._exchange, None
        reusable = self._parser.should_keep_alive() and exchange is not None and not self._paused
        self.idle_since = time.monotonic()
        # An answer may come before all of its request has gone: whoever came next would wait behind the rest of it.
        # What TLS or the system has taken is not seen here; but an answer to what nobody has read is a refusal.
        unsent = self._transport.get_write_buffer_size() or (self._long and self._parser.get_status_code() >= 300)
        self._pool.give_back(self, reusable=reusable and not unsent)
        if exchange is not None:
            exchange.on_end(None)
