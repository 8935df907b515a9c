"""The relay's deadlines, clients that leave or read slowly, stale connections, and the server's end."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest

from fakes.wires import MemoryEngine, MemoryWire
from support.relays import CLOSED, COUNTED, DONE, LAST, SAID, WHOLE, Bench, failed, relayed, streamed
from vestry.errors import EngineFailed, EngineTimeout, Stopping
from vestry.types import Ending, Usage

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


def test_a_relay_that_stood_still_reads_first_what_came_meanwhile() -> None:
    """Its machine was paused for longer than an engine may be silent: the engine was not, and no answer is cut off."""

    async def run() -> None:
        bench = Bench(idle_seconds=0.3)
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        wire.head()
        wire.data(SAID)
        time.sleep(0.6)  # noqa: ASYNC251 - the process stands still
        await asyncio.sleep(0.01)
        for event in (LAST, COUNTED, DONE):
            wire.data(event)
        wire.end()
        assert (await task).ending is Ending.COMPLETE

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_never_ends_is_a_timeout(stream: bool) -> None:
    """A piece now and then keeps no place for ever; a stream's client is told, and keeps what there was."""

    async def run() -> None:
        bench = Bench(stream=stream, answer_seconds=0.3, stream_seconds=0.3, first_byte_seconds=60, idle_seconds=60)
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        wire.head()
        while not wire.closed:
            wire.data(SAID if stream else b" ")
            await asyncio.sleep(0.01)
        if stream:
            outcome = await task
            assert (outcome.ending, outcome.code) == (Ending.TRUNCATED, "engine_timeout")
            assert bench.client.written.startswith(SAID)
        else:
            with pytest.raises(EngineTimeout):
                await task

    asyncio.run(asyncio.wait_for(run(), 20))


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
        outcome = await asyncio.wait_for(task, 20)
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
                await asyncio.wait_for(first, 20)
            await asyncio.sleep(0.15)

    asyncio.run(run())


def test_a_stale_connection_is_replaced_without_anybody_noticing() -> None:
    """Once, by a fresh one; should that be closed too, the engine has failed. That it had the call before is told."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        (await bench.engine.wire()).drop_stale()
        second = await bench.engine.wire(2)
        assert second.fresh
        streamed(SAID, LAST, COUNTED, DONE)(second)
        outcome = await task
        assert (outcome.ending, outcome.tried) == (Ending.COMPLETE, (outcome.replica,))
        task = asyncio.ensure_future(bench.send())
        (await bench.engine.wire(3)).drop_stale()
        (await bench.engine.wire(4)).drop_stale()
        with pytest.raises(EngineFailed) as refused:
            await task
        assert (refused.value.cause, refused.value.tried) == ("closed", (outcome.replica,))
        assert len(bench.engine.wires) == 4

    asyncio.run(run())


def test_a_client_that_leaves_while_a_stale_connection_is_replaced_stops_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is watched by then, and there is no wire to close when it goes: the new one is closed at once."""

    async def run() -> None:
        bench, connected, send = Bench(), asyncio.Event(), MemoryEngine.send

        async def slow(*asked: Any, fresh: bool, **options: Any) -> MemoryWire:
            if fresh:
                await connected.wait()
            return await send(*asked, fresh=fresh, **options)

        monkeypatch.setattr(MemoryEngine, "send", slow)
        task = asyncio.ensure_future(bench.send())
        (await bench.engine.wire()).drop_stale()
        await asyncio.sleep(0.01)
        bench.client.go()
        connected.set()
        outcome = await asyncio.wait_for(task, 20)
        assert outcome.ending is Ending.CANCELLED
        assert outcome.usage == Usage(10, 0, estimated=True)
        assert bench.engine.wires[1].closed

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_cut_off_before_its_first_byte_is_refused_by_whoever_sent_it(stream: bool) -> None:
    """The server stops: the engine is told, and what is raised can say which engine had the call."""

    async def run() -> None:
        bench = Bench(stream=stream)
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(Stopping):
            await task
        assert wire.closed

    asyncio.run(run())


def test_a_call_that_is_cut_off_as_its_connection_turns_out_stale_is_not_sent_again() -> None:
    """Both in one turn: the server stops, so nothing is begun anew."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        wire = await bench.engine.wire()
        await asyncio.sleep(0)
        wire.drop_stale()
        task.cancel()
        with pytest.raises(Stopping):
            await asyncio.wait_for(task, 20)
        assert len(bench.engine.wires) == 1

    asyncio.run(run())


def test_a_call_that_is_cut_off_during_the_connect_is_cancelled() -> None:
    """No engine has it: the cancellation passes on."""

    async def run() -> None:
        bench = Bench()
        task = asyncio.ensure_future(bench.send())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bench.engine.wires == []

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


def test_an_answer_in_small_pieces_takes_no_more_memory_than_it_has_bytes() -> None:
    """Two bytes a piece, as an engine may send them: kept one by one they would be twenty times as large, or more."""

    def play(wire: MemoryWire) -> None:
        wire.head(200, b"application/json")
        for number in range(32_000):
            wire.data(number.to_bytes(2))
        wire.end()

    tracemalloc.start()
    try:
        assert isinstance(failed(play, stream=False), EngineFailed)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_an_answer_to_another_call_is_none_however_it_comes(cut: int) -> None:
    """vLLM names an answer after the call's id: one that names another call is not passed on, in one piece or several.
    What only speaks of such a name is."""
    other = json.dumps({"id": f"chatcmpl-req_{'0' * 32}", **WHOLE}, separators=(",", ":")).encode()
    quoting = json.dumps({"id": "x", **WHOLE, "said": other.decode()}, separators=(",", ":")).encode()

    def play(wire: MemoryWire, body: bytes) -> None:
        wire.head(200, b"application/json")
        for piece in filter(None, (body[:cut], body[cut:])):
            wire.data(piece)
        wire.end()

    assert isinstance(failed(lambda wire: play(wire, other), stream=False), EngineFailed)
    assert relayed(lambda wire: play(wire, quoting), stream=False)[0].last == quoting
