"""The relay: what goes on at once, what is raised and what is an outcome, and which deadlines hold when."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fakes.calls import call, head
from fakes.wires import MemoryClient, MemoryEngine, MemoryWire
from vestry.errors import EngineFailed, EngineTimeout, Refusal
from vestry.relay import Relay
from vestry.settings import Relay as Deadlines
from vestry.types import Ending, Outcome, Replica, Usage

REPLICA = Replica("a", "http://127.0.0.1:1")
SAID = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COUNTED = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE: dict[str, Any] = {
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}
CLOSED = "the engine closed the connection"


class Bench:
    """A relay between an engine and a client in memory."""

    def __init__(self, *, stream: bool = True, traceparent: str = "", **deadlines: Any) -> None:
        self.engine, self.client = MemoryEngine(), MemoryClient()
        self.relay = Relay({"a": self.engine}, Deadlines(event_bytes=4096, answer_bytes=65_536, **deadlines))
        self.head = head("req_7", route="chat.completions", traceparent=traceparent, began=time.monotonic())
        self.call = call(stream=stream, prompt_bytes=40)
        self.firsts = 0

    def first(self) -> None:
        self.firsts += 1

    def send(self) -> Awaitable[Outcome]:
        return self.relay.send(self.head, self.call, REPLICA, self.client, self.first)

    async def while_(self, play: Callable[[MemoryWire], None]) -> Outcome:
        """Send, and let the engine play its part."""
        task = asyncio.ensure_future(self.send())
        play(await self.engine.wire())
        async with asyncio.timeout(5):
            return await task


def relayed(play: Callable[[MemoryWire], None], **options: Any) -> tuple[Outcome, Bench]:
    """The outcome of one call, and the bench that it was made on."""

    async def run() -> tuple[Outcome, Bench]:
        bench = Bench(**options)
        return await bench.while_(play), bench

    return asyncio.run(run())


def failed(play: Callable[[MemoryWire], None], **options: Any) -> Refusal:
    """What is raised for one call."""
    with pytest.raises(Refusal) as refused:
        relayed(play, **options)
    return refused.value


def whole(status: int, body: bytes) -> Callable[[MemoryWire], None]:
    """An answer in one piece."""

    def play(wire: MemoryWire) -> None:
        wire.head(status, b"application/json")
        wire.data(body)
        wire.end()

    return play


def streamed(*pieces: bytes, error: str | None = None) -> Callable[[MemoryWire], None]:
    """A stream that ends well, or with this error."""

    def play(wire: MemoryWire) -> None:
        wire.head()
        for piece in pieces:
            wire.data(piece)
        wire.end(error)

    return play


# Good answers ---------------------------------------------------------------------------------------------------


def test_an_answer_in_one_piece_is_the_last_of_its_outcome() -> None:
    """Nothing leaves before the outcome is durable: the whole body waits in `last`."""
    body = json.dumps(WHOLE).encode()
    outcome, bench = relayed(whole(200, body), stream=False)
    assert (outcome.ending, outcome.status, outcome.last) == (Ending.COMPLETE, 200, body)
    assert outcome.usage == Usage(7, 2)
    assert outcome.finish_reasons == ("stop",)
    assert outcome.replica == "a"
    assert outcome.first_byte is not None
    assert bench.client.written == b""
    assert bench.firsts == 1


def test_a_stream_goes_on_as_it_comes_and_its_end_waits() -> None:
    """Chunks leave in the callback that brought them; from the last finish reason on they wait in `last`."""
    outcome, bench = relayed(streamed(SAID, SAID, LAST + COUNTED, DONE))
    assert outcome.ending is Ending.COMPLETE
    assert bench.client.written == SAID + SAID
    assert outcome.last == LAST + DONE
    assert outcome.usage == Usage(7, 2)
    assert bench.firsts == 1


def test_the_engine_gets_our_request_id_and_the_callers_trace() -> None:
    """Correlation: x-request-id is ours, traceparent is the caller's, and goes on only if there is one."""
    _, bench = relayed(streamed(SAID, LAST, COUNTED, DONE), traceparent="00-1-2-03")
    (wire,) = bench.engine.wires
    assert (wire.method, wire.path, wire.body) == ("POST", "/v1/chat/completions", b"{}")
    assert wire.headers == {"x-request-id": "req_7", "traceparent": "00-1-2-03"}
    _, bench = relayed(streamed(SAID, LAST, COUNTED, DONE))
    assert bench.engine.wires[0].headers == {"x-request-id": "req_7"}


# Failures before the first byte ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"choices":[]}',
        b'{"choices":[],"usage":{"prompt_tokens":1}}',
        json.dumps({**WHOLE, "choices": WHOLE["choices"] * 2}).encode(),
        b'{"usage":' + b"[" * 100_000,
        b'{"choices":[{"finish_reason":"\xff"}],"usage":{}}',
    ],
)
def test_an_answer_that_makes_no_sense_is_a_failure_of_the_engine(body: bytes) -> None:
    """Not JSON, no usage, another number of choices: garbage, which another replica may make good."""
    fault = failed(whole(200, body), stream=False)
    assert isinstance(fault, EngineFailed)
    assert (fault.cause, fault.status) == ("garbage", 502)


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 405, 429, 500, 502, 503])
def test_another_status_is_a_failure_of_the_engine(status: int) -> None:
    """A wrong key, a wrong path, a redirect, an error: never the client's fault, never followed."""
    fault = failed(whole(status, b'{"error":"x"}'), stream=False)
    assert isinstance(fault, EngineFailed)
    assert fault.cause == "status"


@pytest.mark.parametrize(
    ("words", "code", "param"),
    [
        ("This model's maximum context length is 2048 tokens.", "context_length_exceeded", "messages"),
        ("the prompt is longer than the maximum model length", "context_length_exceeded", "messages"),
        ("Chat template raised: jinja2 error", "invalid_request", None),
        ("Failed to convert the grammar from EBNF", "invalid_request", "response_format"),
        ('"auto" tool choice requires --enable-auto-tool-choice', "invalid_request", "tools"),
        ("Token id 99999 is out of vocab", "invalid_request", None),
        ("Sing me a song", "invalid_request", None),
        ("", "invalid_request", None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_the_engine_calls_a_bad_request_is_one_in_our_words(
    words: str, code: str, param: str | None, stream: bool
) -> None:
    """400 from the engine is 400 for the client, in a sentence of ours: the engine's may repeat the prompt."""
    fault = failed(whole(400, json.dumps({"error": {"message": words + " my secret prompt"}}).encode()), stream=stream)
    assert (fault.status, fault.code, fault.param) == (400, code, param)
    assert "secret" not in fault.reason


def test_an_endless_error_is_cut_off() -> None:
    """No more of an error is read than 64 KiB."""
    outcome = failed(whole(500, b"x" * 70_000), stream=False)
    assert isinstance(outcome, EngineFailed)


def test_an_endless_answer_is_cut_off() -> None:
    """An answer in one piece has a bound; beyond it the engine is told to stop."""

    def play(wire: MemoryWire) -> None:
        wire.head(200, b"application/json")
        for _ in range(10):
            wire.data(b"x" * 10_000)
        assert wire.closed

    fault = failed(play, stream=False)
    assert isinstance(fault, EngineFailed)
    assert fault.cause == "garbage"


def test_a_stream_that_is_none_is_refused_at_its_head() -> None:
    """200 with another content type: given up before a byte of it."""

    def play(wire: MemoryWire) -> None:
        wire.head(200, b"text/html")
        assert wire.closed
        wire.data(b"<html>")

    fault = failed(play)
    assert isinstance(fault, EngineFailed)
    assert fault.cause == "garbage"


@pytest.mark.parametrize(
    "play",
    [
        streamed(b'data: {"error":{"message":"dead"}}\n\n', error="closed"),
        streamed(SAID + b'data: {"error":{"message":"dead"}}\n\n'),
        streamed(),
        streamed(b"data: {"),
        streamed(LAST, error=CLOSED),
        streamed(b"data: " + b"x" * 5000),
    ],
)
def test_while_nothing_has_been_sent_a_stream_that_breaks_is_raised(play: Callable[[MemoryWire], None]) -> None:
    """An error as the first event, an empty stream, one that dies in its first event: another replica may try."""
    with pytest.raises(EngineFailed):
        relayed(play)


def test_a_replica_that_cannot_be_connected_to_is_raised() -> None:
    """The cause is `connect`."""

    async def run() -> None:
        bench = Bench()
        bench.engine.refusing = True
        with pytest.raises(EngineFailed) as refused:
            await bench.send()
        assert refused.value.cause == "connect"

    asyncio.run(run())


def test_an_error_is_no_first_byte() -> None:
    """A replica that is quick to say 500 is not quick."""

    async def run() -> int:
        bench = Bench()
        with pytest.raises(EngineFailed):
            await bench.while_(whole(500, b"{}"))
        return bench.firsts

    assert asyncio.run(run()) == 0


# Failures behind it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("play", "code"),
    [
        (streamed(SAID, SAID, error=CLOSED), "engine_error"),
        (streamed(SAID, SAID), "engine_error"),
        (streamed(SAID, SAID, DONE), "engine_error"),
        (streamed(SAID, SAID, b'data: {"error":{}}\n\n'), "engine_error"),
        (streamed(SAID, SAID, b"data: " + b"x" * 5000), "engine_error"),
    ],
)
def test_what_breaks_after_the_first_byte_is_an_outcome(play: Callable[[MemoryWire], None], code: str) -> None:
    """Truncated, with its tokens estimated, and an error event in place of the end."""
    outcome, bench = relayed(play)
    assert (outcome.ending, outcome.status, outcome.code) == (Ending.TRUNCATED, 200, code)
    assert outcome.usage.estimated
    assert outcome.usage.prompt == 10
    assert outcome.usage.completion >= 2
    assert json.loads(outcome.last.removeprefix(b"data: "))["error"]["code"] == code
    assert bench.client.written == SAID + SAID


def test_a_stream_that_breaks_after_its_usage_keeps_the_count() -> None:
    """Where the engine has counted, its count is used; the held end is not sent."""
    outcome, bench = relayed(streamed(SAID, LAST, COUNTED, error=CLOSED))
    assert outcome.ending is Ending.TRUNCATED
    assert outcome.usage == Usage(7, 2)
    assert LAST not in outcome.last + bench.client.written


# Deadlines ------------------------------------------------------------------------------------------------------


def test_no_first_byte_in_time_is_a_timeout() -> None:
    """Headers alone are no first byte of a stream; the engine is told to stop."""
    fault = failed(lambda wire: wire.head(), first_byte_seconds=0.2)
    assert isinstance(fault, EngineTimeout)
    assert fault.cause == "timeout"


def test_an_answer_in_one_piece_has_more_time() -> None:
    """`answer_seconds` holds for what is not streamed."""
    with pytest.raises(EngineTimeout):
        relayed(lambda wire: None, stream=False, answer_seconds=0.2, first_byte_seconds=60)


def test_silence_in_the_middle_is_a_timeout() -> None:
    """`idle_seconds` holds between two pieces, of a stream and of an answer in one piece."""

    def play(wire: MemoryWire) -> None:
        wire.head()
        wire.data(SAID)

    outcome, bench = relayed(play, idle_seconds=0.2)
    assert (outcome.ending, outcome.code) == (Ending.TRUNCATED, "engine_timeout")
    assert bench.engine.wires[0].closed
    with pytest.raises(EngineTimeout):
        relayed(play, stream=False, idle_seconds=0.2)


def test_a_client_that_reads_slowly_stops_the_clock() -> None:
    """While the engine is kept waiting its silence counts for nothing; after that the clock runs anew."""

    async def run() -> None:
        bench = Bench(idle_seconds=0.15)
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        wire.head()
        wire.data(SAID)
        bench.client.read_slowly(True)
        await asyncio.sleep(0.5)
        assert not task.done()
        bench.client.read_slowly(False)
        assert wire.pauses == [True, False]
        outcome = await asyncio.wait_for(task, 5)
        assert outcome.code == "engine_timeout"

    asyncio.run(run())


# Clients that leave ---------------------------------------------------------------------------------------------


def test_a_client_that_leaves_stops_the_engine() -> None:
    """The wire is closed in the same turn; what was made is charged by estimate."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        wire.head()
        wire.data(SAID)
        bench.client.go()
        assert wire.closed
        outcome = await task
        assert (outcome.ending, outcome.status) == (Ending.CANCELLED, 499)
        assert outcome.usage == Usage(10, 1, estimated=True)

    asyncio.run(run())


def test_a_client_that_left_before_anything_was_sent_is_charged_nothing() -> None:
    """Gone while the intent was written: no engine is asked."""

    async def run() -> None:
        bench = Bench()
        bench.client.go()
        outcome = await bench.send()
        assert outcome.ending is Ending.CANCELLED
        assert outcome.usage == Usage()
        assert bench.engine.wires == []

    asyncio.run(run())


def test_a_client_that_left_during_the_connect_stops_the_engine() -> None:
    """Gone by the time that the engine has the request: it is told to stop at once."""

    async def run() -> None:
        bench = Bench(stream=False)
        task = asyncio.ensure_future(bench.send())
        await asyncio.sleep(0)
        bench.client.gone = True
        outcome = await task
        assert outcome.ending is Ending.CANCELLED
        assert bench.engine.wires[0].closed
        assert outcome.usage == Usage(10, 0, estimated=True)

    asyncio.run(run())


def test_a_wire_that_is_over_belongs_to_the_next_call() -> None:
    """After the engine's end neither a client that leaves nor one that reads slowly touches the wire again."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        streamed(SAID, LAST, COUNTED, DONE)(wire)
        bench.client.read_slowly(True)
        bench.client.go()
        wire.data(SAID)
        wire.end(CLOSED)
        outcome = await task
        assert outcome.ending is Ending.COMPLETE
        assert wire.pauses == []
        assert not wire.closed
        assert bench.client.written == SAID

    asyncio.run(run())


# Stale connections, and the server's end ------------------------------------------------------------------------


def test_deadlines_are_looked_at_as_long_as_there_are_calls() -> None:
    """One clock for all calls: it stops with the last of them, and starts again with the next."""

    async def run() -> None:
        bench = Bench(first_byte_seconds=0.2)
        for number in (1, 2):
            first = asyncio.ensure_future(bench.send())
            await bench.engine.wire(number)
            with pytest.raises(EngineTimeout):
                await asyncio.wait_for(first, 5)
            await asyncio.sleep(0.15)

    asyncio.run(run())


def test_a_stale_connection_is_replaced_without_anybody_noticing() -> None:
    """Once, by a fresh one; should that be closed too, the engine has failed."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        (await bench.engine.wire()).drop_stale()
        second = await bench.engine.wire(2)
        assert second.fresh
        streamed(SAID, LAST, COUNTED, DONE)(second)
        assert (await task).ending is Ending.COMPLETE
        task = asyncio.ensure_future(bench.send())
        (await bench.engine.wire(3)).drop_stale()
        (await bench.engine.wire(4)).drop_stale()
        with pytest.raises(EngineFailed) as refused:
            await task
        assert refused.value.cause == "closed"
        assert len(bench.engine.wires) == 4

    asyncio.run(run())


def test_a_call_that_is_cut_off_before_its_first_byte_is_cancelled() -> None:
    """The server stops: the engine is told, and the cancellation passes on."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wire.closed

    asyncio.run(run())


def test_a_stream_that_is_cut_off_is_an_outcome_with_its_tokens() -> None:
    """The server stops: the client has a part, so the record says what it cost."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        wire.head()
        wire.data(SAID)
        task.cancel()
        outcome = await task
        assert (outcome.ending, outcome.code) == (Ending.TRUNCATED, "overloaded")
        assert outcome.usage.completion == 1
        assert wire.closed

    asyncio.run(run())
