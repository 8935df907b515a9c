"""The door: uvicorn's httptools protocol, with the checks and timers that it lacks.

Rules:
- What could be read in two ways is refused (RFC 9112 sections 3.2, 5.2, 6.3): 400, and the connection closes.
- Nothing is waited for without an end: headers, bodies, and readers that do not read each have a clock.
- One call at a time on a connection: bytes that arrive before it is answered are dropped, and the connection
  closes after the answer (RFC 9112 section 9.3.2 tells clients to expect that).
- A head that is the same as the first one of its connection, but for the body's length, is not parsed again
  (`recurring`).
- A stream's chunks are written straight to the transport: no task, no await, per chunk.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from vestry import addresses
from vestry.edge.answered import Answered
from vestry.edge.certificates import of_connection
from vestry.edge.cycle import Cycle
from vestry.edge.doorkeeper import Rules
from vestry.edge.heads import (
    answer_to,
    fault_of,
    offers_http2,
    told,
    without_offer,
    wrong_length,
    wrong_repetition,
    wrong_target,
)
from vestry.edge.recurring import Recurring, recurring
from vestry.errors import BodyTooLarge, HeadersTooLarge, MalformedRequest, Refusal, RequestTimeout
from vestry.timer import STOOD_STILL_SECONDS, Timer
from vestry.types import Certificate

LAST_SECONDS = 0.2
ASGI = {"version": "3.0", "spec_version": "2.3"}


def new_request_id() -> str:
    """`req_` and 128 random bits in hex: unique, and no count that would show a client how busy others are."""
    return "req_" + random.getrandbits(128).to_bytes(16).hex()


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


class Door(Answered):
    """One connection."""

    cycle: Cycle

    def __init__(
        self,
        rules: Rules,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop, reader_seconds=rules.limits.reader_seconds)
        self._rules = rules
        self._limits = rules.limits
        self._timer: Timer | None = None
        self._fault: Refusal | None = None
        self._deaf = False
        self._in_head = False
        self._in_body = False
        self._arrived = 0
        self._idle_since = 0.0
        self._idle_seconds = rules.limits.keep_alive_seconds
        self._ending = False
        self._target = (b"", b"")
        self.fields: dict[bytes, bytes] = {}
        self.recurring: Recurring | None = None
        """The head of the request in progress, where it is the one that comes again on this connection."""
        self._usual: Recurring | None = None
        self.began = 0.0
        self.began_wall = 0
        self._common: dict[str, Any] = {}
        self.message_event = asyncio.Event()
        self.fault: Refusal | None = None
        """What is wrong with a body in progress: the call that waits for it answers so."""

    # The connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._rules.keeper.connections(+1)
        if self.client is not None and (host := addresses.plain(self.client[0])):
            self.client = host, self.client[1]
        self._common = {
            "type": "http",
            "asgi": ASGI,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "extensions": {"vestry.door": {"door": self}},
        }
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        self._timer = Timer(self.loop, self._limits.header_seconds, self._head_late)
        if self._ending:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rules.keeper.connections(-1)
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self.cycle is None or self.cycle.task.done():
            self._let_go()
        else:
            self.cycle.task.add_done_callback(self._let_go)

    def _let_go(self, _task: asyncio.Task[None] | None = None) -> None:
        """Forget what refers back to this connection, so that it is freed at once. The collector, which does it else,
        is made to come seldom (`commands/serve.py`), and a TLS connection holds some 400 KB that it does not know of.
        """
        self._common = {}
        self.recurring = self._usual = None
        self._on_pause = self.fault = None
        self.cycle = None  # type: ignore[assignment]  # as before the first request

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._answering:
            self._stop_listening()
            return
        between = not (self._arrived or self._in_head or self._in_body)
        if between and self._usual is not None and self._comes_again(self._usual, data):
            return
        self._parse(data)
        if between and self._usual is None and self._answering and self.cycle.keep_alive:
            self.recurring = self._usual = recurring(data, self.cycle.scope, self.fields)

    def _comes_again(self, usual: Recurring, data: bytes) -> bool:
        """Take a whole request with the head that is known here. False for any other: it is the parser's."""
        again = usual.again(data)
        if again is None:
            return False
        scope, self.fields, body = again
        self.headers = scope["headers"]
        self.recurring, self._on_leave, self._on_pause = usual, None, None
        self._begin(scope, keep_alive=True)
        self.cycle.more_body = False
        self.cycle.take(body)
        return True

    def _parse(self, data: bytes) -> None:
        self._arrived += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as fault:
            self._parser_stopped(fault, data)
        if self._deaf:
            return
        if self._fault is None and self._arrived > self._limits.header_bytes:
            if not self._in_body:
                self._fault = HeadersTooLarge()
            elif self._arrived > self._most_in_body:
                self._fault = BodyTooLarge()
        if self._fault is not None:
            self._turn_away(self._fault)
        elif self._timer is None and (self._in_head or self._in_body):
            self._start_timer()

    @cached_property
    def certificate(self) -> Certificate | None:
        """What the client has shown in its handshake; read when it is first asked for."""
        return of_connection(self.transport)

    @property
    def _answering(self) -> bool:
        """Whether a call has arrived whole, and has not been answered."""
        return self.cycle is not None and not self.cycle.response_complete and not self._in_body

    @property
    def _most_in_body(self) -> int:
        """Bytes that a body may take on the wire: chunks and trailers are counted too."""
        return 2 * self._limits.body_bytes + self._limits.header_bytes

    def _parser_stopped(self, fault: Exception, data: bytes) -> None:
        """At an error; or at an offer of HTTP/2, which is passed over: the head is read again without it."""
        if self._fault is not None or self._deaf:
            return
        if not isinstance(fault, httptools.HttpParserUpgrade) or not offers_http2(self.headers):
            self._fault = fault_of(fault, data)
            return
        head = without_offer(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn: what follows is dropped
        try:
            self.parser.feed_data(head + data[fault.args[0] :])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as another:
            self._parser_stopped(another, data)

    def _stop_listening(self) -> None:
        """Drop what came after a whole request; the connection closes once that is answered."""
        self._deaf = True
        self.cycle.close_gently()

    # The parser's callbacks -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answering:
            self._stop_listening()
        if self._fault is None and not self._deaf:
            self.url, self.headers = b"", []
            self._in_head = True
            self._on_leave = self._on_pause = None

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # in a body: a trailer, which means nothing here
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._deaf or self._fault is not None:
            return
        if self.parser.should_upgrade():
            if not offers_http2(self.headers):
                self._fault = MalformedRequest("Protocol upgrades are not supported.")
            return  # the parser stops here: see `_parser_stopped`
        version = self.parser.get_http_version()
        self.fields = dict(self.headers)
        self._fault = self._check_head(version)
        if self._fault is None:
            self._stop_timer()
            self._in_head, self._in_body, self._arrived = False, True, 0
            self.recurring = None
            scope = {**self._common, **told(version, self.parser.get_method(), self.url, self.headers)}
            self._begin(scope, keep_alive=version == "1.1" and self.parser.should_keep_alive())

    def _begin(self, scope: dict[str, Any], *, keep_alive: bool) -> None:
        """Hand the request to the application, in a task of its own; its body follows."""
        self.began, self.began_wall = time.monotonic(), time.time_ns() // 1000
        self.message_event.clear()
        self.cycle = cycle = Cycle(self, scope, keep_alive and not self._ending)
        cycle.task = asyncio.Task(cycle.run_asgi(self.app), loop=self.loop, name="call")  # it would be given a number
        self.tasks.add(cycle.task)

    def on_body(self, body: bytes) -> None:
        if self._in_body and not self._deaf and self._fault is None:
            self.cycle.take(body)

    def on_message_complete(self) -> None:
        if self._in_body and not self._deaf and self._fault is None:
            self._stop_timer()
            self._in_body, self._arrived = False, 0
            if not self.cycle.response_complete:
                self.cycle.more_body = False
                self.message_event.set()

    def _check_head(self, version: str) -> Refusal | None:
        """What is wrong with the request line and headers; None for nothing."""
        if len(self.headers) > self._limits.headers or (
            self._arrived > self._limits.header_bytes and self._head_bytes() > self._limits.header_bytes
        ):
            return HeadersTooLarge()
        wrong = wrong_repetition(self.headers) if self.repeated else None
        wrong = wrong or self._wrong_target() or wrong_length(version, self.fields)
        return MalformedRequest(wrong) if wrong else None

    @property
    def repeated(self) -> bool:
        """Whether a header comes more than once; `fields` has the last one."""
        return len(self.fields) != len(self.headers)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _wrong_target(self) -> str | None:
        target = self.url, self.fields.get(b"host", b"")
        if target == self._target:  # as before on this connection
            return None
        wrong = wrong_target(*target, self._rules.allowed_hosts)
        if wrong is None:
            self._target = target
        return wrong

    def on_response_complete(self) -> None:
        """Wait for the next request; one timer a connection, not one a request."""
        self.server_state.total_requests += 1
        self._idle_since = time.monotonic()
        if self.transport.is_closing():
            return
        if not self.flow.write_paused:
            self.flow.resume_reading()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self._idle_seconds, self._look_if_idle)

    def _look_if_idle(self, again: bool = False) -> None:
        busy = self._in_head or (self.cycle is not None and not self.cycle.response_complete)
        left = self._idle_seconds - (0.0 if busy else time.monotonic() - self._idle_since)
        if left > 0.001:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._look_if_idle)
        elif left < -STOOD_STILL_SECONDS and not again:  # as `Timer` does
            self.timeout_keep_alive_task = self.loop.call_later(LAST_SECONDS, self._look_if_idle, True)
        else:
            self.timeout_keep_alive_task = None
            self.transport.close()

    def shutdown(self) -> None:
        """The server stops: the connection ends with the next answer, or when nothing more is asked.

        Closed at once it could cut off a request that is on its way, and the client would not know its fate. One whose
        handshake is not over yet ends so after it.
        """
        self._ending = True
        if self.transport is None:
            return
        self._idle_seconds, self._idle_since = LAST_SECONDS, time.monotonic()
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(LAST_SECONDS, self._look_if_idle)
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    # Clocks ---------------------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        """Give the head or the body that has begun to arrive its time, once."""
        if self._in_head:
            self._timer = Timer(self.loop, self._limits.header_seconds, self._head_late)
        else:
            self._timer = Timer(self.loop, self._limits.body_seconds, lambda: self._turn_away(RequestTimeout()))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_late(self) -> None:
        self._timer = None
        if self._arrived:
            self._turn_away(RequestTimeout())
        else:
            self.transport.close()

    # Answers --------------------------------------------------------------------------------------------------

    def _turn_away(self, refusal: Refusal) -> None:
        """Answer what is wrong on the wire, and close: by the call, where there is one, which is then recorded."""
        self._deaf = True
        self._stop_timer()
        if self._in_body:
            self.fault = refusal
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
            return
        request_id = new_request_id()
        self.transport.write(answer_to(refusal, request_id, self.server_state.default_headers))
        self._rules.keeper.refused(refusal, request_id, self.client[0] if self.client else "")
        self.linger()

    def linger(self) -> None:
        self._deaf = True
        self._stop_timer()
        super().linger()
