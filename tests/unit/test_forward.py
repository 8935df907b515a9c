"""Forwarding: what is tried twice, what is reported to the router, and what is raised in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from msgspec.structs import replace

from fakes.calls import GRANT, call, head
from fakes.wires import MemoryClient, MemoryEngine, MemoryWire, until
from support.house import served_model
from vestry.errors import ContextLengthExceeded, EngineFailed, EngineTimeout, NoReplica, Stopping
from vestry.forward import Forward
from vestry.relay import Relay
from vestry.route import Router, Seat
from vestry.settings.tree import Relay as Deadlines
from vestry.types import Ending, Outcome

SAID = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
END = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


class Bench:
    """Two replicas, 1 and 2; the first call goes to 1."""

    def __init__(self, replicas: int = 2, budget: float = 0.2, first_byte_seconds: float = 60) -> None:
        names = [f"127.0.0.1:{number}" for number in range(1, replicas + 1)]
        self.model = served_model("small", *(f"http://{name}" for name in names))
        self.engines = {name: MemoryEngine() for name in names}
        self.client = MemoryClient()
        self.retries: list[str] = []
        self.router = Router([self.model], retry_budget=budget, observer=self)
        relay = Relay(self.engines, Deadlines(first_byte_seconds=first_byte_seconds))
        self.forward = Forward(self.router, relay, self)

    def ejected(self, model: str, replica: str, cause: str) -> None: ...

    def retried(self, model: str) -> None:
        self.retries.append(model)

    def send(self) -> Awaitable[Outcome]:
        grant = replace(GRANT, model=self.model)
        made = self.forward(head(route="chat.completions"), call(stream=True), grant, self.client)
        return asyncio.ensure_future(made)

    async def wire(self, replica: int, number: int = 1) -> MemoryWire:
        wire = await self.engines[f"127.0.0.1:{replica}"].wire(number)
        await asyncio.sleep(0)
        return wire

    def seat(self, replica: int) -> Seat:
        return self.router.seats["small"][replica - 1]


def answer(wire: MemoryWire, status: int = 200, *pieces: bytes) -> None:
    """A stream of these pieces, or another status."""
    wire.head(status)
    for piece in pieces:
        wire.data(piece)
    wire.end()


def test_a_good_answer_takes_one_try() -> None:
    """The replica is given back, and its outcome is a success."""

    async def run() -> None:
        bench = Bench()
        task = bench.send()
        wire = await bench.wire(1)
        assert bench.seat(1).outstanding == 1
        answer(wire, 200, SAID, END)
        outcome = await task
        assert (outcome.ending, outcome.attempts, outcome.replica) == (Ending.COMPLETE, 1, "127.0.0.1:1")
        assert bench.seat(1).outstanding == 0
        assert bench.retries == []

    asyncio.run(run())


def test_a_failure_before_the_first_byte_is_tried_elsewhere() -> None:
    """The second replica answers; the client sees nothing of the first; the second try is counted."""

    async def run() -> None:
        bench = Bench()
        task = bench.send()
        answer(await bench.wire(1), 500)
        answer(await bench.wire(2), 200, SAID, END)
        outcome = await task
        assert (outcome.attempts, outcome.replica) == (2, "127.0.0.1:2")
        assert bench.client.written == SAID
        assert bench.seat(1).failures == 1
        assert bench.retries == ["small"]

    asyncio.run(run())


def test_there_is_no_third_try() -> None:
    """Two failures are the end; the second is the one that is told."""

    async def run() -> None:
        bench = Bench(replicas=3, first_byte_seconds=0.1)
        task = bench.send()
        answer(await bench.wire(1), 500)
        await bench.wire(2)
        with pytest.raises(EngineTimeout) as refused:
            await task
        assert isinstance(refused.value.__cause__, EngineFailed)
        assert bench.engines["127.0.0.1:3"].wires == []
        assert [bench.seat(number).outstanding for number in (1, 2, 3)] == [0, 0, 0]

    asyncio.run(run())


def test_nothing_is_tried_again_once_the_client_has_a_part() -> None:
    """A stream that breaks after its first byte is an outcome, and a failure of the replica."""

    async def run() -> None:
        bench = Bench()
        task = bench.send()
        answer(await bench.wire(1), 200, SAID)
        assert (await task).ending is Ending.TRUNCATED
        assert bench.engines["127.0.0.1:2"].wires == []
        assert bench.seat(1).failures == 1

    asyncio.run(run())


@pytest.mark.parametrize("bench", [lambda: Bench(replicas=1), lambda: Bench(budget=0.0)])
def test_without_another_replica_or_budget_the_failure_is_told(bench: type[Bench]) -> None:
    """One replica only, or no budget: 502, and no second try is counted."""

    async def run() -> None:
        it = bench()
        task = it.send()
        answer(await it.wire(1), 500)
        with pytest.raises(EngineFailed):
            await task
        assert it.retries == []

    asyncio.run(run())


def test_nobody_waits_for_a_second_try_that_nobody_wants() -> None:
    """The client has left by the time that the first replica fails."""

    async def run() -> None:
        bench = Bench()
        bench.engines["127.0.0.1:1"].refusing = True
        task = bench.send()
        await asyncio.sleep(0)
        bench.client.gone = True
        with pytest.raises(EngineFailed):
            await task
        assert bench.engines["127.0.0.1:2"].wires == []

    asyncio.run(run())


def test_without_any_replica_the_model_is_unavailable() -> None:
    """All down: told at once."""

    async def run() -> None:
        bench = Bench()
        for number in (1, 2):
            bench.seat(number).down = True
        with pytest.raises(NoReplica):
            await bench.send()

    asyncio.run(run())


def test_a_wrong_request_is_no_failure_of_the_replica() -> None:
    """What the engine calls wrong is not tried again, and does not count against it."""

    async def run() -> None:
        bench = Bench()
        bench.seat(1).failures = 1
        task = bench.send()
        answer(await bench.wire(1), 400, b'{"error":{"message":"maximum context length"}}')
        with pytest.raises(ContextLengthExceeded):
            await task
        assert bench.seat(1).failures == 0
        assert bench.retries == []

    asyncio.run(run())


def test_a_call_that_is_given_up_gives_its_replica_back() -> None:
    """A client that leaves, and a call that is cancelled: the place is free, and nothing is held against it."""

    async def run() -> None:
        bench = Bench()
        bench.seat(1).failures = 1
        task = bench.send()
        await bench.wire(1)
        bench.client.go()
        assert (await task).ending is Ending.CANCELLED
        assert (bench.seat(1).outstanding, bench.seat(1).failures) == (0, 1)
        bench.client.gone = False
        bench.seat(2).failures = 1
        cancelled = asyncio.ensure_future(bench.send())
        await bench.wire(2)
        cancelled.cancel()
        with pytest.raises(Stopping) as refused:
            await cancelled
        assert (bench.seat(2).outstanding, bench.seat(2).failures) == (0, 1)
        assert (refused.value.replica, refused.value.attempts, refused.value.tried) == ("127.0.0.1:2", 1, ())

    asyncio.run(run())


@pytest.mark.parametrize("connected", [False, True])
def test_a_second_try_that_is_cut_off_names_the_first(connected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stops: whoever may have worked on the call is told, and who was not even connected to is not."""

    async def hanging(*_asked: Any, **_options: Any) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        bench = Bench()
        if not connected:
            monkeypatch.setattr(bench.engines["127.0.0.1:2"], "send", hanging)
        task = asyncio.ensure_future(bench.send())
        answer(await bench.wire(1), 500)
        await until(lambda: bench.retries)
        if connected:
            await bench.wire(2)
        task.cancel()
        with pytest.raises(Stopping) as refused:
            await task
        found = (refused.value.replica, refused.value.attempts, refused.value.tried)
        assert found == (("127.0.0.1:2", 2, ("127.0.0.1:1",)) if connected else ("", 1, ("127.0.0.1:1",)))
        assert bench.seat(2).outstanding == 0

    asyncio.run(run())


@pytest.mark.parametrize("number", [1, 2])
def test_a_server_that_stops_while_a_stale_connection_is_replaced(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine may have had the call on the stale one: it is named, once, at the first try and at the second."""

    async def run() -> None:
        bench = Bench()
        engine, connecting = bench.engines[f"127.0.0.1:{number}"], asyncio.Event()
        answered = engine.send

        async def hanging(*asked: Any, fresh: bool, **options: Any) -> MemoryWire:
            if fresh:
                connecting.set()
                await asyncio.Event().wait()
            return await answered(*asked, fresh=fresh, **options)

        monkeypatch.setattr(engine, "send", hanging)
        task = asyncio.ensure_future(bench.send())
        if number == 2:
            answer(await bench.wire(1), 500)
        (await bench.wire(number)).drop_stale()
        await connecting.wait()
        task.cancel()
        with pytest.raises(Stopping) as refused:
            await task
        found = (refused.value.replica, refused.value.attempts, refused.value.tried)
        assert found == (f"127.0.0.1:{number}", number, ("127.0.0.1:1",) * (number - 1))
        assert bench.seat(number).outstanding == 0

    asyncio.run(run())


def test_what_an_engine_had_on_a_stale_connection_is_not_forgotten() -> None:
    """It is asked again, then it cannot be connected to, and another replica answers, whose connection was stale as
    well: both may have worked on the call before.
    """

    async def run() -> None:
        bench = Bench()
        made = bench.send()
        stale = await bench.wire(1)
        bench.engines["127.0.0.1:1"].refusing = True
        stale.drop_stale()
        (await bench.wire(2)).drop_stale()
        answer(await bench.wire(2, 2), 200, SAID, END)
        outcome = await made
        tried = ("127.0.0.1:1", "127.0.0.1:2")
        assert (outcome.replica, outcome.attempts, outcome.tried) == ("127.0.0.1:2", 2, tried)

    asyncio.run(run())
