"""The door: uvicorn's httptools protocol, with the checks and timers that it lacks.

Rules:
- What could be read in two ways is refused (RFC 9112 sections 3.2, 5.2, 6.3): 400, and the connection closes.
- Nothing is waited for without an end: headers, bodies, and readers that do not read each have a clock.
- One call at a time on a connection: bytes that arrive before it is answered are dropped, and the connection
  closes after the answer (RFC 9112 section 9.3.2 tells clients to expect that).
- A stream's chunks are written straight to the transport: no task, no await, per chunk.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import Any, Protocol

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from vestry import settings
from vestry.errors import HeadersTooLarge, MalformedRequest, Refusal, RequestTimeout

HOST = re.compile(rb"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$")
TARGET = re.compile(rb"^/[!-~]*$")
HEADER_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
LINGER_SECONDS = 1.0
EVENT_STREAM = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Doorkeeper(Protocol):
    """Is told what happens at the door before a call exists."""

    def refused(self, refusal: Refusal, request_id: str, source: str) -> None:
        """A request was refused before it could be read."""

    def connections(self, change: int) -> None:
        """A connection was opened (+1) or closed (-1)."""


class Rules(Struct, frozen=True):
    """What the door checks: the settings' bounds, allowed hosts (lower case), and who is told."""

    limits: settings.Door
    allowed_hosts: frozenset[bytes]
    keeper: Doorkeeper


def new_request_id() -> str:
    """`req_` and 128 random bits in hex."""
    return "req_" + secrets.token_hex(16)


def protocol_factory(rules: Rules) -> Callable[..., Door]:
    """What uvicorn calls for each connection."""

    def build(
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Door:
        return Door(rules, config, server_state, app_state, _loop)

    return build


class Door(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        rules: Rules,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._rules = rules
        self._limits = rules.limits
        self._timer: asyncio.TimerHandle | None = None
        self._timing_head = True
        self._slow: asyncio.TimerHandle | None = None
        self._fault: Refusal | None = None
        self._deaf = False
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._on_leave: Callable[[], None] | None = None
        self._on_pause: Callable[[bool], None] | None = None
        self.late = False

    # The connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._rules.keeper.connections(+1)
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        self._timer = self.loop.call_later(self._limits.header_seconds, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._rules.keeper.connections(-1)
        self._stop_timer()
        if self._slow is not None:
            self._slow.cancel()
        super().connection_lost(exc)
        if self._on_leave is not None:
            leave, self._on_leave = self._on_leave, None
            leave()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self.cycle is not None and not self.cycle.response_complete and not self._in_body:
            self.cycle.keep_alive = False
            self._deaf = True
            return
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fault = self._fault or MalformedRequest("Protocol upgrades are not supported.")
        except httptools.HttpParserError:
            self._fault = self._fault or MalformedRequest()
        if self._fault is not None:
            self._refuse(self._fault)
        elif self._in_head and self._head_bytes > self._limits.header_bytes:
            self._refuse(HeadersTooLarge())
        elif self._in_head or self._in_body:
            self._start_timer()
        else:
            self._stop_timer()

    # The parser's callbacks -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._in_body or (self.cycle is not None and not self.cycle.response_complete):
            self.cycle.keep_alive = False
            self._deaf = True
        if self._fault is None and not self._deaf:
            super().on_message_begin()
            self._in_head = True
            self._on_leave = self._on_pause = None

    def on_url(self, url: bytes) -> None:
        if not self._deaf:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._deaf or self._fault is not None:
            return
        if len(self.headers) >= self._limits.headers:
            self._fault = HeadersTooLarge()
        elif HEADER_CONTROL.search(value):
            self._fault = MalformedRequest("A header holds a control character.")
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._deaf or self._fault is not None:
            return
        self._fault = self._check_head()
        if self._fault is not None:
            return
        self._in_head, self._in_body, self._head_bytes = False, True, 0
        self.scope["extensions"] = {"vestry.door": {"door": self}}  # type: ignore[typeddict-item]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._deaf and self._fault is None and self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf and self._fault is None and self.cycle is not None:
            self._in_body = False
            super().on_message_complete()

    def _check_head(self) -> Refusal | None:
        """What is wrong with the request line and headers; None for nothing."""
        size = len(self.url)
        hosts: list[bytes] = []
        lengths = encodings = 0
        chunked = True
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                lengths += 1
            elif name == b"transfer-encoding":
                encodings += 1
                chunked = value.lower() == b"chunked"
        if size > self._limits.header_bytes:
            return HeadersTooLarge()
        if not TARGET.match(self.url):
            return MalformedRequest("The request target must be a path.")
        if len(hosts) != 1 or not HOST.match(hosts[0]):
            return MalformedRequest("Exactly one valid `Host` header is needed.")
        if self._rules.allowed_hosts and _without_port(hosts[0]) not in self._rules.allowed_hosts:
            return MalformedRequest("This server does not answer to that `Host`.")
        if lengths + encodings > 1 or not chunked:
            return MalformedRequest("The length of the body is stated in more than one way.")
        if self.parser.get_http_version() not in ("1.1", "1.0") or (
            encodings and self.parser.get_http_version() == "1.0"
        ):
            return MalformedRequest("HTTP/1.1 is spoken here.")
        return None

    # Clocks ---------------------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        """Give what has begun to arrive its time, once."""
        if self._in_body and self._timing_head:
            self._stop_timer()
        if self._timer is None:
            self._timing_head = self._in_head
            seconds, late = (
                (self._limits.header_seconds, self._head_late)
                if self._in_head
                else (self._limits.body_seconds, self._body_late)
            )
            self._timer = self.loop.call_later(seconds, late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_late(self) -> None:
        self._timer = None
        if self._head_bytes:
            self._refuse(RequestTimeout())
        else:
            self.transport.close()

    def _body_late(self) -> None:
        """Tell the call, which answers 408 and closes."""
        self.late = True
        self.cycle.message_event.set()

    def _reader_late(self) -> None:
        self._slow = None
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._slow = self.loop.call_later(self._limits.reader_seconds, self._reader_late)
        if self._on_pause is not None:
            self._on_pause(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        if self._on_pause is not None:
            self._on_pause(False)

    # Answers --------------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that never became a call, or whose body broke off into nonsense, and close."""
        request_id = new_request_id()
        if self._abandon_call():
            return
        body = refusal.body()
        lines = [STATUS_LINE[refusal.status]]
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            *refusal.headers(),
        ]
        for name, value in headers:
            lines += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        self._rules.keeper.refused(refusal, request_id, self.client[0] if self.client else "")
        self.linger()

    def _abandon_call(self) -> bool:
        """Tell a call whose body broke off that its client is gone; True if its answer had begun."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            self.transport.abort()
        return cycle.response_started

    def linger(self) -> None:
        """Close so that the answer arrives: stop sending, drop what still comes, and hang up within a second.

        Closing at once with unread bytes would reset the connection, and the client would lose the answer.
        """
        self._deaf = True
        self._stop_timer()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()

    def close_gently(self) -> None:
        """Make the answer in progress the connection's last, and linger after it instead of closing at once."""
        self.cycle.keep_alive = False
        self.cycle.transport = _Lingering(self)  # type: ignore[assignment]

    def watch(self, on_leave: Callable[[], None], on_pause: Callable[[bool], None]) -> None:
        """Call `on_leave` once when the client goes, `on_pause` when it stops (True) and goes on (False) reading."""
        self._on_leave, self._on_pause = on_leave, on_pause
        self.flow.resume_reading()

    def unwatch(self) -> None:
        self._on_leave = self._on_pause = None

    def start_stream(self, headers: list[tuple[bytes, bytes]], first: bytes) -> None:
        """Send the head of a streamed answer, and its first bytes, in one write."""
        cycle = self.cycle
        cycle.response_started = cycle.chunked_encoding = True
        lines = [STATUS_LINE[200]]
        for name, value in (*self.server_state.default_headers, *EVENT_STREAM, *headers):
            lines += [name, b": ", value, b"\r\n"]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += [b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(first), first, b"\r\n"]
        self.transport.write(b"".join(lines))

    def write_chunk(self, chunk: bytes) -> None:
        """Send the next bytes of a streamed answer (RFC 9112 section 7.1)."""
        self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))


class _Lingering:
    """The transport of a call whose body was not read to its end."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.write = door.transport.write
        self.is_closing = door.transport.is_closing

    def close(self) -> None:
        self._door.linger()


def _without_port(host: bytes) -> bytes:
    if host.startswith(b"["):
        return host[: host.index(b"]") + 1].lower()
    return host.partition(b":")[0].lower()
