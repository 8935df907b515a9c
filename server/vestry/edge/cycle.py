"""One request on a connection and its answer: uvicorn's cycle, made at a third of its cost, with shorter ways out.

ASGI's `send` serves every application. An answer in one piece, and a stream's chunks, can be written straight to the
transport instead: no await, no message, one write each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

EVENT_STREAM = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"
Headers = list[tuple[bytes, bytes]]


class Connection(Protocol):
    """What a cycle asks of its connection."""

    transport: asyncio.Transport
    flow: FlowControl
    logger: logging.Logger
    fields: dict[bytes, bytes]
    server_state: ServerState
    message_event: asyncio.Event

    def on_response_complete(self) -> None: ...

    def linger(self) -> None: ...


class Cycle(RequestResponseCycle):
    """As the head of this file says. `task` runs the application, and is out of uvicorn's set once it has ended."""

    task: asyncio.Task[None]
    access_log = disconnected = response_started = response_complete = False
    more_body = True
    chunked_encoding: bool | None = None
    expected_content_length = 0
    _first: bytes | None = b""

    def __init__(self, connection: Connection, scope: Any, keep_alive: bool) -> None:
        # Not super().__init__: the connection has most of what that makes or is given anew for each request.
        self._connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self.transport = connection.transport
        self.flow = connection.flow
        self.default_headers = connection.server_state.default_headers
        self.message_event = connection.message_event
        self.waiting_for_100_continue = (  # RFC 9110, section 10.1.1: HTTP/1.0 does not know it
            b"expect" in connection.fields
            and connection.fields[b"expect"].lower() == b"100-continue"
            and scope["http_version"] != "1.0"
        )

    @property
    def logger(self) -> logging.Logger:  # type: ignore[override]
        return self._connection.logger

    def on_response(self) -> None:
        """Called by uvicorn's `send`."""
        self._connection.on_response_complete()

    async def run_asgi(self, app: Any) -> None:
        """Run the application for this request. One that fails, or does not answer whole, ends the connection."""
        try:
            await app(self.scope, self.receive, self.send)
            if not (self.response_complete or self.gone):
                fault_of_ours = RuntimeError("the application has not answered whole")
                raise asyncio.CancelledError if self.task.cancelling() else fault_of_ours  # noqa: TRY301 - one end
        except BaseException as fault:  # the border of the application, as in uvicorn
            # The server stops, and its client was too slow for the end of its answer: nobody's fault.
            if not (self.response_started and isinstance(fault, asyncio.CancelledError)):
                self.logger.error("Exception in ASGI application\n", exc_info=fault)  # noqa: TRY400 - uvicorn's words
            if self.response_started:
                self.transport.close()
            else:
                await self.send_500_response()
        finally:
            self._connection.server_state.tasks.discard(self.task)

    @property
    def gone(self) -> bool:
        """True once the client has closed the connection, though uvicorn is told a turn of the loop later."""
        return self.disconnected or self.transport.is_closing()

    def take(self, piece: bytes) -> None:
        """The next bytes of the request's body. The first ones are kept as they came: mostly they are all."""
        if self.response_complete:
            return
        if self._first == b"":
            self._first = piece
        else:
            self._gather()
            self.body += piece
            if len(self.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
        self.message_event.set()

    def whole_body(self) -> bytes | None:
        """The request's body, if it has arrived with its headers; it is taken once."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        if self._first is not None:
            body, self._first = self._first, b""
        else:
            body = bytes(self.body)
            self.body.clear()
        return body

    def receive(self) -> Coroutine[Any, Any, ASGIReceiveEvent]:
        self._gather()
        return super().receive()

    def _gather(self) -> None:
        """From here on the body is what uvicorn's `receive` gives away."""
        if self._first is not None:
            self.body, self._first = bytearray(self._first), None

    def close_gently(self) -> None:
        """Make this answer the connection's last, and linger after it instead of closing at once."""
        self.keep_alive = False
        self.transport = _Lingering(self._connection)  # type: ignore[assignment]

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer in one piece, in one write. The caller has seen to it that the client is still there."""
        if (b"connection", b"close") in headers:
            headers.remove((b"connection", b"close"))
            self.keep_alive = False
        self.response_started = True
        lines = self._head(status, headers)
        if status != 204:  # RFC 9110, section 8.6: no Content-Length
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        if status != 204 and self.scope["method"] != "HEAD":
            lines.append(body)
        self.transport.write(b"".join(lines))
        self._complete()

    def _head(self, status: int, headers: Headers) -> list[bytes]:
        """The lines of an answer's head, as far as all answers have them."""
        lines = [STATUS_LINE[status]]
        for name, value in self.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return lines

    def start_stream(self, headers: Headers, first: bytes) -> None:
        """Send the head of a streamed answer, and its first bytes, in one write."""
        self.response_started = True
        self.chunked_encoding = self.scope["http_version"] != "1.0"
        lines = self._head(200, headers)
        lines.append(EVENT_STREAM)
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines += (b"\r\n", self._framed(first))
        self.transport.write(b"".join(lines))

    def write_chunk(self, chunk: bytes) -> None:
        """Send the next bytes of a streamed answer; a client that has gone hears nothing more."""
        if not self.transport.is_closing():
            self.transport.write(self._framed(chunk))

    async def end_stream(self, last: bytes) -> None:
        """Send the last bytes of a streamed answer, and its end, once the client has taken in what came before."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        end = b"0\r\n\r\n" if self.chunked_encoding else b""
        self.transport.write(self._framed(last) + end)
        self._complete()

    def _framed(self, chunk: bytes) -> bytes:
        """A chunk as RFC 9112 section 7.1 frames it; HTTP/1.0 gets it as it is, and an empty one would be the end."""
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk and self.chunked_encoding else chunk

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        elif self.flow.write_paused:
            self.flow.pause_reading()  # no further request from a client that does not read its answers
        self._connection.on_response_complete()


class _Lingering:
    """The transport of a call whose body was not read to its end."""

    def __init__(self, connection: Connection) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.linger
