"""How long a request may take to arrive, how long a connection may idle, and how slowly an answer may be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.engine import Behaviour, FakeEngine
from support.house import House, chat, until
from support.refusal import Visit
from support.wire import Wire, chat_request, chunked, request, resident_bytes

HEAD_SECONDS, BODY_SECONDS, READER_SECONDS, IDLE_SECONDS = 0.3, 0.35, 0.8, 0.9
SLACK = 6.0  # less than what the server has without these, more than a machine stands still
HELLO = b'{"model":"small","messages":[{"role":"user","content":"hello"}]}'
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def house(shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server that is quick to lose patience, and has room for few."""
    door = {
        "header_seconds": HEAD_SECONDS,
        "body_seconds": BODY_SECONDS,
        "reader_seconds": READER_SECONDS,
        "keep_alive_seconds": IDLE_SECONDS,
        "connections": 64,
    }
    with House(tmp_path_factory.mktemp("brisk"), [shared_engine], door=door) as house:
        yield house


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One bad request to come."""
    return Visit(house, engine)


HALF_HEADS = {
    "a byte": b"G",
    "half a request line": b"GET /v1/mod",
    "a request line": b"GET /v1/models HTTP/1.1\r\n",
    "half a header": b"GET /v1/models HTTP/1.1\r\nHost: loc",
    "headers without their end": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n",
    "all but a byte": request()[:-1],
    "an empty line": b"\r\n",
    "half of the preface of HTTP/2": b"PRI * HTTP/2.0\r\n",
}


@pytest.mark.parametrize("name", HALF_HEADS)
def test_half_a_head_is_given_up(name: str, visit: Visit) -> None:
    """Headers that do not end are answered 408 when their time is over; the client is told not to try again."""
    began = time.monotonic()
    with visit.wire() as wire:
        wire.send(HALF_HEADS[name])
        answer = wire.answer()
        assert wire.closed()
    assert HEAD_SECONDS - 0.05 < time.monotonic() - began < HEAD_SECONDS + SLACK
    assert answer.headers["x-should-retry"] == "false"
    visit.refused(answer, 408, "request_timeout", param=None)


@pytest.mark.parametrize("line", [b"a" * 100, b"\r\nX-A: a" * 20])
def test_a_head_in_drops_is_given_up(line: bytes, visit: Visit) -> None:
    """A byte now and then does not buy more time."""
    with visit.wire() as wire:
        began = time.monotonic()
        wire.drip(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: " + line, seconds=0.02)
        answer = wire.answer()
        assert wire.closed()
    assert time.monotonic() - began < HEAD_SECONDS + SLACK
    visit.refused(answer, 408, "request_timeout")


def test_a_connection_that_says_nothing_is_closed(visit: Visit) -> None:
    """A connection without a byte is closed when the time for headers is over; there is nobody to answer."""
    began = time.monotonic()
    with visit.wire() as wire:
        assert wire.closed()
    assert HEAD_SECONDS - 0.05 < time.monotonic() - began < HEAD_SECONDS + SLACK
    visit.well()


def test_empty_lines_do_not_hold_a_connection(visit: Visit) -> None:
    """Empty lines between calls restart no clock: an idle connection closes when its time is over."""
    with visit.wire() as wire:
        wire.send(request("GET", "/nothing"))
        assert wire.answer().status_code == 404
        began = time.monotonic()
        wire.drip(b"\r\n" * 100, seconds=0.1)
        assert wire.closed()
    assert time.monotonic() - began < IDLE_SECONDS + SLACK


def test_half_a_head_on_a_used_connection_is_given_up(visit: Visit) -> None:
    """The second request of a connection has the same time for its headers as the first."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, chat()))
        assert wire.answer().status_code == 200
        began = time.monotonic()
        wire.send(b"GET /v1/models HTT")
        answer = wire.answer()
        assert wire.closed()
    assert HEAD_SECONDS - 0.05 < time.monotonic() - began < HEAD_SECONDS + SLACK
    del visit.engine.asked[:]
    visit.refused(answer, 408, "request_timeout")


HALF_BODIES = {
    "nothing of it": (b"", f"Content-Length: {len(HELLO)}"),
    "half of it": (HELLO[:20], f"Content-Length: {len(HELLO)}"),
    "all but a byte": (HELLO[:-1], f"Content-Length: {len(HELLO)}"),
    "less than it says": (HELLO, f"Content-Length: {len(HELLO) + 1}"),
    "no chunk": (b"", "Transfer-Encoding: chunked"),
    "half a size": (b"4", "Transfer-Encoding: chunked"),
    "half a chunk": (b"40\r\n" + HELLO[:20], "Transfer-Encoding: chunked"),
    "chunks without their end": (chunked(HELLO)[:-5], "Transfer-Encoding: chunked"),
    "all but the last line feed": (chunked(HELLO)[:-1], "Transfer-Encoding: chunked"),
    "a trailer without its end": (chunked(HELLO)[:-2] + b"X-A: a", "Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("name", HALF_BODIES)
def test_half_a_body_is_given_up(name: str, visit: Visit) -> None:
    """A body that does not end is answered 408 when its time is over, and recorded for its key."""
    body, line = HALF_BODIES[name]
    with visit.wire() as wire:
        began = time.monotonic()
        wire.send(chat_request(visit.key, body, line))
        answer = wire.answer()
        assert wire.closed()
    assert BODY_SECONDS - 0.05 < time.monotonic() - began < BODY_SECONDS + SLACK
    assert answer.headers["x-should-retry"] == "false"
    visit.refused(answer, 408, "request_timeout", param=None)
    assert visit.house.records("refusal")[-1]["key_id"]


def test_a_body_in_drops_is_given_up(visit: Visit) -> None:
    """A byte now and then does not buy more time."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, b"", f"Content-Length: {len(HELLO)}"))
        began = time.monotonic()
        wire.drip(HELLO, seconds=0.05)
        answer = wire.answer()
        assert wire.closed()
    assert time.monotonic() - began < BODY_SECONDS + SLACK
    visit.refused(answer, 408, "request_timeout")


def test_a_body_that_the_client_breaks_off_is_recorded(visit: Visit) -> None:
    """A client that goes in the middle of its body gets no answer; the refusal says why."""
    with visit.wire() as wire:
        wire.send(chat_request(visit.key, HELLO[:9], f"Content-Length: {len(HELLO)}"))
    until(lambda: visit.house.records("refusal")[-1]["code"] == "client_closed_request", what="the record")
    assert visit.house.records("refusal")[-1]["status"] == 499
    assert visit.engine.calls == []
    visit.well()


def test_a_slow_but_honest_client_is_served(engine: FakeEngine, tmp_path: Path) -> None:
    """Head and body each have their own time, and an engine that takes longer than both is waited for."""
    seconds = 1.0
    engine.behave(first_seconds=2 * seconds + 0.2)
    door = {"header_seconds": seconds, "body_seconds": seconds}
    with House(tmp_path, [engine], door=door) as house, Wire(house.port) as wire:
        call = chat_request(house.key, HELLO)
        end = call.index(b"\r\n\r\n") + 4
        for piece in (call[:10], call[10:end], call[end:-5]):
            wire.send(piece)
            assert not wire.readable(seconds * 0.4)
        wire.send(call[-5:])
        assert wire.answer().status_code == 200


def test_an_idle_connection_is_kept_for_its_time(visit: Visit) -> None:
    """Between calls a connection lives for `keep_alive_seconds`, and no longer."""
    with visit.wire() as wire:
        for _ in range(2):
            wire.send(request("GET", "/v1/models", f"Authorization: Bearer {visit.key}"))
            assert wire.answer().status_code == 200
            assert not wire.readable(IDLE_SECONDS * 0.6)
        began = time.monotonic()
        assert wire.closed()
    assert time.monotonic() - began < IDLE_SECONDS + SLACK


@pytest.mark.parametrize("part", ["the head", "the body", "the next call"])
def test_a_server_that_stood_still_blames_no_client(part: str, house: House, visit: Visit) -> None:
    """What was sent while its machine was paused comes after that, and is answered: no 408, no closed connection."""
    call = chat_request(visit.key, HELLO)
    sent = {"the head": 0, "the body": len(call) - 5, "the next call": 0}[part]
    with visit.wire() as wire:
        if part == "the next call":
            wire.send(call)
            assert wire.answer().status_code == 200
        wire.send(call[:sent])
        assert house.get_ops("/readyz").status_code == 200  # so far it has read
        over = threading.Event()
        house.loop.call_soon_threadsafe(over.wait, 20)
        time.sleep(IDLE_SECONDS + 0.2)  # the pause is what is tested
        over.set()
        assert not wire.readable(0.03)
        wire.send(call[sent:])
        assert wire.answer().status_code == 200


def test_connections_beyond_their_bound_are_closed(house: House, visit: Visit) -> None:
    """The 65th connection is closed at once; those that were there go on, and one that goes makes room."""
    until(lambda: "vestry_connections 0" in house.metrics(), what="earlier connections to be gone")
    wires = [visit.wire() for _ in range(64)]
    try:
        wires[0].send(request("GET", "/nothing"))
        assert wires[0].answer().status_code == 404
        with visit.wire() as one_more:
            assert one_more.closed()
        wires[0].send(request("GET", "/nothing"))
        assert wires[0].answer().status_code == 404
    finally:
        for wire in wires:
            wire.close()
    until(lambda: "vestry_connections 0" in house.metrics(), what="the connections to be gone")
    visit.well()


# Readers ------------------------------------------------------------------------------------------------------------

PIECE = "x" * 16_384
PIECES = 3000


def test_a_stream_that_is_not_read_stops_the_engine(visit: Visit) -> None:
    """A client that does not read holds up the engine, not the memory; after `reader_seconds` it is dropped."""
    visit.engine.behave(words=(PIECE,) * PIECES)
    with visit.wire(receive_buffer=8192) as wire:
        wire.send(chat_request(visit.key, chat(stream=True)))
        assert wire.line() == b"HTTP/1.1 200 OK\r\n"
        before, began = resident_bytes(), time.monotonic()
        until(lambda: visit.house.records("outcome")[-1]["ending"] == "cancelled", what="the client being dropped")
        assert READER_SECONDS - 0.05 < time.monotonic() - began < READER_SECONDS + SLACK
        assert resident_bytes() - before < 8 * MIB
    outcome = visit.house.records("outcome")[-1]
    assert (outcome["status"], outcome["estimated"]) == (499, True)
    assert 0 < outcome["completion_tokens"] < PIECES
    visit.engine.behaviour = Behaviour()
    visit.well()


def test_a_stream_that_is_read_late_arrives_whole(visit: Visit) -> None:
    """A client that pauses for less than `reader_seconds`, again and again, loses nothing."""
    visit.engine.behave(words=(PIECE,) * 600)
    with visit.wire(receive_buffer=8192) as wire:
        wire.send(chat_request(visit.key, chat(stream=True), "Connection: close"))
        pieces = []
        for _ in range(3):
            time.sleep(READER_SECONDS * 0.5)  # the pause is what is tested
            pieces.append(wire.take(1_000_000))
        stream = b"".join([*pieces, wire.rest()])
    assert stream.count(b"data: ") == 1 + 600 + 1 + 1
    assert stream.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert visit.house.records("outcome")[-1]["ending"] == "complete"


def test_answers_that_are_not_read_stop_further_calls(visit: Visit) -> None:
    """A client that sends calls and reads no answers is not served for ever: its answers do not pile up here."""
    visit.engine.behave(words=("x" * MIB,))
    before = resident_bytes()
    with visit.wire(receive_buffer=8192) as wire:
        for number in range(40):
            wire.send(chat_request(visit.key, chat()))
            end = time.monotonic() + 0.3
            while len(visit.engine.calls) <= number and time.monotonic() < end:
                time.sleep(0.005)
            if len(visit.engine.calls) <= number:
                break
        assert len(visit.engine.calls) < 20
        assert resident_bytes() - before < 32 * MIB
        until(lambda: "vestry_connections 0" in visit.house.metrics(), what="the connection to be dropped")
    visit.engine.behaviour = Behaviour()
    visit.well()
