"""Clients that leave, or read slowly: the engine stops within a second, and what was used is charged and recorded."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.engine import Asked, Behaviour, FakeEngine
from support.disk import Disk
from support.house import PLAIN, House, chat, soon, until
from support.outcomes import events, idle, metric, only_outcome, outcome_of, said
from support.wire import Wire, chat_request
from vestry.audit.calls import OutcomeRecord
from vestry.audit.log import AuditLog
from vestry.audit.store import Committed
from vestry.audit.writer import Waiter

LONG = tuple(f" word{number}" for number in range(400))
PROMPT = "What is the capital of France?"


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A slow engine of its own."""
    with FakeEngine(behaviour=Behaviour(words=LONG, between_seconds=0.02)) as engine:
        yield engine


@pytest.fixture
def house(tmp_path: Path, engine: FakeEngine) -> Iterator[House]:
    """A house of its own."""
    with House(tmp_path / "state", [engine], relay={"probe_seconds": 60}) as house:
        yield house


def asked(house: House, **body: Any) -> Wire:
    """A connection on which a call has been sent."""
    wire = Wire(house.port)
    wire.send(chat_request(house.key, chat(PROMPT, **body)))
    return wire


def at_work(engine: FakeEngine) -> Asked:
    """The one call that the engine has got."""
    until(lambda: engine.calls, what="the engine to be asked")
    (call,) = engine.calls
    return call


def hang_up(wire: Wire) -> None:
    """Close, as a program that ends."""
    wire.close()


def reset(wire: Wire) -> None:
    """Close with a reset, as a program that is killed with unread bytes."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


def half_close(wire: Wire) -> None:
    """Say that nothing more will be sent. HTTP/1.1 servers may take that as leaving, and this one does."""
    wire.socket.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_hears_within_a_second_that_a_client_has_left(
    house: House, engine: FakeEngine, stream: bool
) -> None:
    """In the middle of a stream, or before the first byte of an answer."""
    engine.behave(first_seconds=0 if stream else 30)

    def attempt(number: int) -> float:
        wire = asked(house, stream=stream)
        until(lambda: len(engine.calls) > number, what="the engine to be asked")
        while stream and b"word3" not in wire.line():
            pass
        began = time.monotonic()
        wire.close()
        left: float = until(lambda: engine.calls[number].left_at or 0.0, what="the engine to be left")
        return left - began

    soon(1, attempt)


@pytest.mark.parametrize("leave", [hang_up, reset, half_close])
def test_a_client_leaves_a_stream(house: House, engine: FakeEngine, leave: Callable[[Wire], None]) -> None:
    """In the middle of a stream: the engine hears of it; its tokens are charged and recorded."""
    wire = asked(house, stream=True)
    while b"word3" not in wire.line():
        pass
    leave(wire)
    call = at_work(engine)
    until(lambda: call.left_at, seconds=8, what="the engine to be left")
    outcome = only_outcome(house)
    assert (outcome["ending"], outcome["status"], outcome["code"]) == ("cancelled", 499, "client_closed_request")
    assert outcome["estimated"] is True
    assert 4 <= outcome["completion_tokens"] < 100
    assert 0 < outcome["prompt_tokens"] <= len(PROMPT)
    assert metric(house, "vestry_tokens_total", kind="output") == outcome["completion_tokens"]
    assert metric(house, "vestry_outcomes_total", ending="cancelled") == 1
    idle(house)
    wire.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_client_leaves_before_the_first_byte(house: House, engine: FakeEngine, stream: bool) -> None:
    """Streamed or not: the engine hears of it within a second, and the prompt is charged."""
    engine.behave(first_seconds=30)
    wire = asked(house, stream=stream)
    call = at_work(engine)
    wire.close()
    until(lambda: call.left_at, seconds=8, what="the engine to be left")
    outcome = only_outcome(house)
    assert (outcome["ending"], outcome["completion_tokens"]) == ("cancelled", 0)
    assert 0 < outcome["prompt_tokens"] <= len(PROMPT)
    assert "first_byte_us" not in outcome
    idle(house)


def test_a_client_with_a_long_prompt_leaves(house: House, engine: FakeEngine) -> None:
    """A body larger than a socket's buffer pauses reading; leaving is noticed all the same."""
    engine.behave(first_seconds=30)
    wire = Wire(house.port)
    wire.send(chat_request(house.key, chat("long " * 100_000)))
    call = at_work(engine)
    wire.close()
    until(lambda: call.left_at, seconds=8, what="the engine to be left")
    assert only_outcome(house)["ending"] == "cancelled"


def test_a_client_leaves_and_another_stays(house: House, engine: FakeEngine) -> None:
    """One client's leaving touches nobody else's stream, though both are at the same engine."""
    engine.behave(between_seconds=0.005)
    with asked(house, stream=True) as stays:
        wire = asked(house, stream=True)
        until(lambda: len(engine.calls) == 2, what="both calls")
        wire.close()
        until(lambda: any(call.left_at for call in engine.calls), seconds=8, what="the engine to be left")
        assert said(events(stays.answer().text)) == "".join(LONG)
    assert sorted(each["ending"] for each in house.records("outcome")) == ["cancelled", "complete"]


# While the record is being written -------------------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk under the record."""
    disk = Disk(monkeypatch)
    yield disk
    disk.mend()


def test_a_client_leaves_while_its_intent_is_written(house: House, engine: FakeEngine, disk: Disk) -> None:
    """The engine is never asked, nothing is charged, and the intent has its outcome."""
    assert house.key
    disk.block()
    wire = asked(house, stream=True)
    until(lambda: metric(house, "vestry_requests_in_progress") == 1, what="the call")
    wire.close()
    until(lambda: metric(house, "vestry_connections") == 0, what="the server to notice")
    disk.mend()
    outcome = only_outcome(house)
    assert (outcome["ending"], outcome["prompt_tokens"], outcome["completion_tokens"]) == ("cancelled", 0, 0)
    assert engine.calls == []
    idle(house)


def test_a_client_leaves_while_its_outcome_is_written(tmp_path: Path, engine: FakeEngine, disk: Disk) -> None:
    """The engine has ended, and its connection serves another call by then: that one is not touched.

    One call is on its way back from a first replica that failed; it takes over the connection of a second call,
    whose outcome is still being written when its client leaves.
    """
    with (
        FakeEngine(behaviour=Behaviour(first_seconds=0.8, status=500)) as failing,
        House(tmp_path / "two", [failing, engine], relay={"probe_seconds": 60}) as house,
        httpx.Client(headers={"authorization": f"Bearer {house.key}"}, verify=PLAIN, timeout=20) as client,
    ):
        url = house.url + "/v1/chat/completions"
        engine.behave(words=("short",), first_seconds=0.3, between_seconds=0)
        stays = threading.Thread(target=lambda: answers.append(client.post(url, json=chat(stream=True))))
        answers: list[httpx.Response] = []
        stays.start()
        until(lambda: failing.calls, what="the first call at the first replica")
        leaves = asked(house, stream=True)
        until(lambda: engine.calls, what="the second call at the second replica")
        disk.block()
        until(lambda: engine.calls[0].finished, what="the end of the second call's answer")
        engine.behave(words=LONG, between_seconds=0.005)
        until(lambda: len(engine.calls) == 2, what="the first call at the second replica")
        assert engine.calls[0].connection == engine.calls[1].connection
        leaves.close()
        until(lambda: metric(house, "vestry_connections") == 1, what="the server to notice")
        disk.mend()
        stays.join(20)
        assert said(events(answers[0].text)) == "".join(LONG)
        until(lambda: len(house.records("outcome")) == 2, what="both outcomes")
        assert [each["ending"] for each in house.records("outcome")] == ["complete", "complete"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_client_leaves_as_its_outcome_becomes_durable(
    house: House, engine: FakeEngine, stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the record and the last byte: nothing can be sent any more, and nobody's fault is logged."""
    engine.behave(words=("short",), between_seconds=0)
    wire, left, committed = Wire(house.port), threading.Event(), AuditLog.committed

    def leaving(log: AuditLog, waiters: list[Waiter], done: Committed, seconds: float) -> None:
        committed(log, waiters, done, seconds)
        if any(isinstance(waiter.record, OutcomeRecord) for waiter in waiters):
            wire.close()  # the loop sees it before the call goes on
            left.set()

    monkeypatch.setattr(AuditLog, "committed", leaving)
    wire.send(chat_request(house.key, chat(PROMPT, stream=stream)))
    assert left.wait(20)
    until(lambda: metric(house, "vestry_connections") == 0, what="the server to notice")
    assert only_outcome(house)["ending"] == "complete"
    idle(house)
    assert [each.message for each in caplog.records if each.levelno >= logging.ERROR] == []


class Unconnectable(FakeEngine):
    """An engine whose listener takes no connection: its queue is full."""

    def __enter__(self) -> FakeEngine:
        self._full = socket.socket()
        self._full.bind(("127.0.0.1", 0))
        self._full.listen(0)
        self.port = self._full.getsockname()[1]
        self._clients = [socket.socket(), socket.socket()]
        for each in self._clients:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", self.port))
        return self

    def stop(self) -> None:
        for each in (self._full, *self._clients):
            each.close()


def test_a_client_leaves_during_the_connect(tmp_path: Path) -> None:
    """A replica that cannot be connected to: the call ends with the connect's deadline, and is recorded."""
    relay = {"probe_seconds": 60, "connect_seconds": 0.5}
    with Unconnectable() as engine, House(tmp_path / "state", [engine], wait=False, relay=relay) as house:
        wire = asked(house)
        until(lambda: house.records("intent"), what="the intent")
        wire.close()
        outcome = only_outcome(house)
        assert outcome["ending"] in {"failed", "cancelled"}
        assert outcome["completion_tokens"] == 0
        idle(house)


# Slow readers ----------------------------------------------------------------------------------------------------

WIDE = tuple("x" * 20_000 for _ in range(1500))


def test_a_slow_reader_slows_the_engine_and_loses_nothing(tmp_path: Path) -> None:
    """It stops reading for longer than the engine may be silent: the engine waits, memory does not grow, and all of
    the answer arrives in the end."""
    relay = {"probe_seconds": 60, "idle_seconds": 0.4}
    with (
        FakeEngine(behaviour=Behaviour(words=WIDE)) as engine,
        House(tmp_path / "state", [engine], relay=relay) as house,
        Wire(house.port, receive_buffer=16_384) as wire,
    ):
        wire.send(chat_request(house.key, chat(stream=True)))
        call = at_work(engine)
        time.sleep(1.2)
        assert not call.finished
        assert said(events(wire.answer().text)) == "".join(WIDE)
        assert only_outcome(house)["ending"] == "complete"


def test_a_reader_that_stops_is_dropped(tmp_path: Path) -> None:
    """After `reader_seconds` with a full buffer the connection is dropped, and the engine hears of it."""
    with (
        FakeEngine(behaviour=Behaviour(words=WIDE)) as engine,
        House(tmp_path / "state", [engine], relay={"probe_seconds": 60}, door={"reader_seconds": 0.5}) as house,
        Wire(house.port, receive_buffer=16_384) as wire,
    ):
        wire.send(chat_request(house.key, chat(stream=True)))
        call = at_work(engine)
        until(lambda: call.left_at, seconds=8, what="the engine to be left")
        outcome = only_outcome(house)
        assert outcome["ending"] == "cancelled"
        assert 0 < outcome["completion_tokens"] < len(WIDE)
        idle(house)


@pytest.mark.parametrize("more", [b"", b"\r\n"], ids=["alone", "more sent"])
def test_a_steady_reader_of_a_long_answer_gets_it_whole(tmp_path: Path, more: bytes) -> None:
    """It takes longer than `reader_seconds` over it, and bytes behind its request make no difference."""
    answer = "x" * 12_000_000
    with (
        FakeEngine(behaviour=Behaviour(words=(answer,), first_seconds=0.3)) as engine,
        House(tmp_path / "state", [engine], relay={"probe_seconds": 60}, door={"reader_seconds": 0.4}) as house,
        Wire(house.port, receive_buffer=65_536) as wire,
    ):
        wire.send(chat_request(house.key, chat()))
        at_work(engine)
        wire.send(more)
        left = int(wire.head().headers["content-length"])
        assert left > len(answer)
        while left:
            read = wire.take(min(left, 65_536))
            assert read, f"cut off {left} bytes before the end"
            left -= len(read)
            time.sleep(0.01)


def test_many_leave_at_once(house: House, engine: FakeEngine) -> None:
    """Thirty streams, all left: thirty outcomes, every engine call stopped, and every place given back."""
    wires = [asked(house, stream=True) for _ in range(30)]
    until(lambda: len(engine.calls) == 30, what="all calls")
    for wire in wires:
        wire.close()
    until(lambda: all(call.left_at for call in engine.calls), seconds=8, what="the engine to be left by all")
    until(lambda: len(house.records("outcome")) == 30, what="all outcomes")
    for intent in house.records("intent"):
        assert outcome_of(house, intent["request_id"])["ending"] == "cancelled"
    idle(house)
