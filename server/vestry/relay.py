"""The relay: one call to one replica, byte for byte, with its deadlines.

Rules:
- What the engine sends goes on in the callback that brought it. What must wait (see `sse`) is in `Outcome.last`.
- Before the first byte has gone to the client a failure is raised, and another replica may try. After it, a failure
  is an outcome: the client is told by an error event.
- An answer that names another call is nobody's: whatever got out of step, what one caller was told reaches no other.
- The client going, or a deadline passing, closes the connection to the engine: that is how vLLM learns to stop.
- A connection that turns out stale is replaced once, without a word to the client. That its engine had not begun cannot
  be known for certain, so the record says that it had the call before (`tried`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from vestry.complaints import complaint
from vestry.errors import EngineFailed, EngineTimeout, InvalidRequest, Refusal, Stopping
from vestry.failing import CODES, Failing
from vestry.seams import Client, Engine, Pieces, Wire
from vestry.settings.tree import Relay as Deadlines
from vestry.sse import BrokenStream, EventStream, ReportedError, decode_answer, is_anothers
from vestry.timer import Timer
from vestry.types import Call, Ending, Head, Outcome, Replica, Usage

PATHS = {"chat.completions": "/v1/chat/completions", "completions": "/v1/completions"}
BYTES_PER_TOKEN = 4
MAX_ERROR_BYTES = 65_536
TICK_SECONDS = 0.1
ANOTHERS = "the engine answered another call"
TOO_LONG = "the engine's answer is too long"
GAVE_UP = "the engine gave the call up"
GIVEN_UP = frozenset({"abort", "error"})
"""Finish reasons of vLLM's for an answer that it did not finish: it was put to sleep, or paused. OpenAI has none like
them, so a client would take such a beginning for an answer."""


class Relay:
    """Sends calls to replicas. Built once, with one connection pool a replica."""

    def __init__(self, engines: Mapping[str, Engine], deadlines: Deadlines) -> None:
        self._engines = engines
        self._deadlines = deadlines
        self._active: set[_Attempt] = set()
        self._ticking = False
        self._failing = Failing()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(  # noqa: PLR0917 - for every call, and keywords cost
        self,
        head: Head,
        call: Call,
        replica: Replica,
        client: Client,
        on_first: Callable[[float], None],
        extra: bytes = b"",
    ) -> Outcome:
        """Relay one call, with `extra` in its body. Returns once the engine's answer has ended, or the client has gone.
        `on_first` hears when the first byte of a good answer comes (monotonic seconds).

        Raises EngineFailed or EngineTimeout while nothing has been sent to the client, InvalidRequest where the engine
        found the request wrong or its answer is too large, Stopping where the call is cut off and the engine has it.
        """
        engine = self._engines[replica.name]
        loop = self._loop = self._loop or asyncio.get_running_loop()
        attempt = _Attempt(loop, head, call, replica, client, self._deadlines, on_first, extra)
        self._active.add(attempt)
        if not self._ticking:
            self._ticking = True
            Timer(loop, TICK_SECONDS, self._tick)
        try:
            await attempt.run(engine, fresh=False)
            if attempt.error is not None and attempt.stale:
                attempt.again()
                await attempt.run(engine, fresh=True)
            outcome = attempt.outcome()
        except Refusal as refusal:
            refusal.tried = attempt.tried
            if isinstance(refusal, EngineFailed):
                self._failing.say(replica.name, attempt.why, refusal)
            raise
        except asyncio.CancelledError:
            if attempt.tried:  # the server stops while the stale connection is replaced: the engine may have the call
                raise Stopping from None
            raise
        else:
            if outcome.code in CODES:
                self._failing.say(replica.name, attempt.why)
            return outcome
        finally:
            self._active.discard(attempt)

    def _tick(self) -> None:
        """One timer for the deadlines of all calls: cheaper than two timers a call. After a standstill of this process
        it comes one tick later: what engines said meanwhile has to be read first.
        """
        now = time.monotonic()
        for attempt in list(self._active):
            attempt.look(now)
        self._ticking = bool(self._active)
        if self._ticking:
            Timer(asyncio.get_running_loop(), TICK_SECONDS, self._tick)


class _Attempt:
    """Implements seams.Exchange for one call."""

    wire: Wire | None = None
    error: str | None = None
    tried: tuple[str, ...] = ()
    _status = 0
    _content_type = b""
    _first: float | None = None
    _paused = _left = _timed_out = _sent = _cut = False

    def __init__(  # noqa: PLR0917 - made for every call, and keywords cost
        self,
        loop: asyncio.AbstractEventLoop,
        head: Head,
        call: Call,
        replica: Replica,
        client: Client,
        deadlines: Deadlines,
        on_first: Callable[[float], None],
        extra: bytes,
    ) -> None:
        self._head, self._call, self._replica, self._client = head, call, replica, client
        self._deadlines, self._on_first = deadlines, on_first
        self._body: Pieces = (memoryview(call.body)[:-1], extra, b"}") if extra else (call.body,)
        self._over: asyncio.Future[None] = loop.create_future()
        self._stream = (
            EventStream(choices=call.choices, wants_usage=call.include_usage, limit=deadlines.event_bytes)
            if call.stream
            else None
        )
        self._kept = bytearray()  # not pieces: each costs forty bytes, however small an engine makes it
        self._began = self._heard = time.monotonic()

    @property
    def stale(self) -> bool:
        """True if the connection was, and there is still time to take another one."""
        return self.wire is not None and self.wire.stale and not self._cut

    @property
    def why(self) -> str:
        """What went wrong, where something did."""
        status = self._status or 200
        return f"it answered {status}" if status != 200 else self.error or "its answer is none to what was asked"

    def again(self) -> None:
        """Begin anew: the connection was stale, and nothing has come of it."""
        self.wire = self.error = None
        self.tried = (self._replica.name,)
        self._over = self._over.get_loop().create_future()
        self._began = self._heard = time.monotonic()

    async def run(self, engine: Engine, *, fresh: bool) -> None:
        """Send, and wait for the end."""
        if self._client.gone:
            self._left = True
            return
        head = self._head
        headers = {"x-request-id": head.request_id}
        if head.traceparent:
            headers["traceparent"] = head.traceparent
        self.wire = await engine.send("POST", PATHS[head.route], self._body, self, headers=headers, fresh=fresh)
        if self._client.gone:  # if it was watched already, its leaving found no wire to close
            self._left = True
            self.wire.close()
            return
        self._client.start(self._leave, self._pause)
        try:
            await self._over
        except asyncio.CancelledError:
            self._cut = True  # the server stops: the engine has the call, so the record has to name it
        finally:
            if not self._over.done() or self._over.cancelled():
                self.wire.close()

    @property
    def _first_limit(self) -> float:
        return self._deadlines.first_byte_seconds if self._call.stream else self._deadlines.answer_seconds

    # seams.Exchange -------------------------------------------------------------------------------------------

    def on_head(self, status: int, content_type: bytes) -> None:
        self._status, self._content_type = status, content_type
        if self._stream is not None and status == 200 and not content_type.startswith(b"text/event-stream"):
            self._break("the engine did not stream")

    def on_data(self, data: bytes) -> None:
        if self._over.done():
            return
        self._heard = time.monotonic()
        if self._stream is None or self._status != 200:
            self._keep(data)
            return
        try:
            ready = self._stream.feed(data)
        except BrokenStream as fault:
            if isinstance(fault, ReportedError):  # vLLM begins a stream before it looks at all of the request
                self._status, self._kept = fault.status, bytearray(fault.event)
            self._break(str(fault))
            return
        if self._first is None and self._stream.events:
            self._mark_first()
            if is_anothers(ready or self._stream.held, self._head.request_id):
                self._break(ANOTHERS)
                return
        if ready:
            self._sent = True
            self._client.write(ready)

    def on_end(self, error: str | None) -> None:
        if not self._over.done():
            self.error = error
            self._over.set_result(None)

    # What can happen in between ---------------------------------------------------------------------------------

    def _keep(self, data: bytes) -> None:
        if self._first is None:
            self._mark_first()
            if is_anothers(data, self._head.request_id):
                self._break(ANOTHERS)
                return
        self._kept += data
        if len(self._kept) > (self._deadlines.answer_bytes if self._status == 200 else MAX_ERROR_BYTES):
            self._break(TOO_LONG)

    def _mark_first(self) -> None:
        self._first = self._heard
        if self._status == 200:
            self._on_first(self._heard)

    # Once the exchange is over its wire belongs to the pool, and then to another call: it is not touched any more.

    def _break(self, why: str) -> None:
        """End the exchange from this side."""
        if self.wire is not None and not self._over.done():
            self.wire.close()
        self.on_end(why)

    def _leave(self) -> None:
        if not self._over.done():
            self._left = True
            self._break("the client left")

    def _pause(self, paused: bool) -> None:
        if self.wire is not None and not self._over.done():
            self._paused = paused
            self._heard = time.monotonic()
            self.wire.pause(paused)

    def look(self, now: float) -> None:
        """Give the engine up if it has been silent too long, or if its answer takes too long altogether."""
        if self.wire is None or self._over.done():
            return
        deadlines = self._deadlines
        limit = self._first_limit if self._first is None else deadlines.idle_seconds
        if now - self._heard >= limit and not self._paused:
            self._timed_out = True
            self._break("the engine was silent too long")
        elif now - self._began >= (deadlines.answer_seconds if self._stream is None else deadlines.stream_seconds):
            self._timed_out = True
            self._break("its answer took too long")

    # How it went --------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """The outcome. Raises as `Relay.send` says."""
        if self._left:
            return self._outcome(Ending.CANCELLED, 499, "client_closed_request", self._use())
        if self._cut and not self._sent:
            raise Stopping
        if self._status and self._status != 200 and not self._sent:
            raise self._complaint()
        if self._stream is None:
            return self._one_piece()
        return self._streamed(self._stream)

    def _one_piece(self) -> Outcome:
        if self.error is not None:
            raise self._failure()
        body = bytes(self._kept)
        if is_anothers(body, self._head.request_id):  # where it began in pieces
            raise EngineFailed("garbage")
        try:
            answer = decode_answer(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise EngineFailed("garbage") from None
        if answer.usage is None or len(answer.choices) != self._call.choices:
            raise EngineFailed("garbage")
        reasons = tuple([choice.finish_reason or "" for choice in answer.choices])
        if not GIVEN_UP.isdisjoint(reasons):
            self.error = GAVE_UP
            raise self._failure()
        return self._outcome(Ending.COMPLETE, 200, "", answer.usage.usage(), reasons=reasons, last=body)

    def _streamed(self, stream: EventStream) -> Outcome:
        reasons = tuple(reason for _, reason in sorted(stream.finish_reasons.items()))
        if self.error is None and not GIVEN_UP.isdisjoint(reasons):
            self.error = GAVE_UP
        if self.error is None and stream.whole and stream.usage is not None:
            return self._outcome(Ending.COMPLETE, 200, "", stream.usage, reasons=reasons, last=stream.held)
        if not self._sent:
            raise self._failure()
        failure = self._failure()
        last = b"data: " + failure.body() + b"\n\n"
        return self._outcome(Ending.TRUNCATED, 200, failure.code, self._use(), reasons=reasons, last=last)

    def _failure(self) -> Refusal:
        if self._cut:
            return Stopping()
        if self._timed_out:
            return EngineTimeout("timeout")
        if self._status and self._status != 200:
            return self._complaint()
        if self.error == TOO_LONG and self._kept.startswith(b"{"):  # what was asked for: another engine says as much
            return InvalidRequest(
                "The answer is larger than this server passes on: ask for fewer choices, tokens or log probabilities."
            )
        closed = self.error is not None and self.error.startswith(("the engine closed", GAVE_UP))
        return EngineFailed("closed" if closed else "garbage")

    def _complaint(self) -> Refusal:
        """What an answer other than 200 means."""
        return complaint(self._status, bytes(self._kept), self._call, self._head.route)

    def _use(self) -> Usage:
        """Tokens of an answer that did not end as it should: as the engine counted them, where it came to that, else
        one an event, and a fourth of the prompt's bytes."""
        if self.wire is None:
            return Usage()
        if self._stream is not None and self._stream.usage is not None:
            return self._stream.usage
        events = self._stream.events if self._stream is not None else 0
        return Usage(prompt=self._call.prompt_bytes // BYTES_PER_TOKEN, completion=events, estimated=True)

    def _outcome(
        self,
        ending: Ending,
        status: int,
        code: str,
        usage: Usage,
        *,
        reasons: tuple[str, ...] = (),
        last: bytes = b"",
    ) -> Outcome:
        return Outcome(
            ending=ending,
            status=status,
            code=code,
            usage=usage,
            finish_reasons=reasons,
            replica=self._replica.name,
            attempts=1,
            tried=self.tried,
            first_byte=self._first,
            engine_seconds=time.monotonic() - self._began,
            last=last,
        )
