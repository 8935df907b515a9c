"""The corridor: the order of its steps, and that whatever stops a call is counted once, recorded, and answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fakes.calls import call, head
from fakes.journal import MemoryJournal
from fakes.wires import MemoryClient, until
from support.house import served_model
from vestry.admit import Admission
from vestry.audit.records import Records
from vestry.errors import (
    AuditUnavailable,
    ClientLeft,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    Refusal,
    Stopping,
)
from vestry.house import House
from vestry.meter.calls import Meter
from vestry.pipeline import Corridor
from vestry.record import Recorder
from vestry.settings.tree import Tenant
from vestry.types import Call, Ending, Grant, Head, Outcome, Principal, Usage

KEY = "vst_good"
LEFT = Outcome(Ending.COMPLETE, 200, usage=Usage(3, 5), replica="a", attempts=1, last=b"the end")


class Visitor(MemoryClient):
    """seams.Visitor that remembers how it was answered."""

    def __init__(self, *, credential: str | None = KEY, body: Call | Exception | None = None) -> None:
        super().__init__()
        self.head: Head = head(route="chat.completions", credential=credential)
        self._body = body or call()
        self.answer: bytes | None = None
        self.refusal: Refusal | None = None
        self.blocked: asyncio.Event | None = None
        self.finishing = False

    async def call(self) -> Call:
        if isinstance(self._body, Exception):
            raise self._body
        return self._body

    @property
    def begun(self) -> bool:
        return False

    async def finish(self, last: bytes, *, streamed: bool) -> None:
        self.finishing = True
        if self.blocked is not None:
            await self.blocked.wait()
        self.answer = last

    async def refuse(self, refusal: Refusal) -> None:
        assert self.refusal is None
        self.refusal = refusal


class Keys:
    """seams.Credentials with one key."""

    def known(self, head: Head) -> Principal | None:
        return Principal("key_1", "default", "alice") if head.credential == KEY else None

    async def find(self, head: Head) -> Principal | None:
        return None


class Bench:
    """A corridor with everything in memory; `engine` says what comes of a call that is forwarded."""

    def __init__(self, engine: Callable[[], Awaitable[Outcome]] | None = None) -> None:
        self.journal, self.meter = MemoryJournal(commit_seconds=0.05), Meter()
        self.admission = Admission(server_concurrency=10)
        self.forwarded = 0
        self._engine = engine

        async def forward(_head: Head, _call: Call, _grant: Grant, _client: Any) -> Outcome:
            self.forwarded += 1
            assert self.kinds[-1] == "intent", "the intent is durable before an engine is asked"
            assert self.admission.busy == 1
            return LEFT if self._engine is None else await self._engine()

        self.corridor = Corridor(
            credentials=Keys(),
            house=House({"default": Tenant()}),
            models={"small": served_model("small")},
            admission=self.admission,
            recorder=Recorder(self.journal, Records()),
            forward=forward,  # type: ignore[arg-type] # only its call is used
            meter=self.meter,
        )

    @property
    def kinds(self) -> list[str]:
        return [record["type"] for record in self.journal.records]

    def counted(self) -> dict[tuple[str, str], float]:
        """Samples of requests and refusals by what they count."""
        return {
            (sample.name, sample.labels.get("code") or sample.labels["reason"]): sample.value
            for family in self.meter.collect()
            for sample in family.samples
            if sample.name in {"vestry_requests_total", "vestry_refusals_total"}
        }

    def walk(self, visitor: Visitor) -> Visitor:
        asyncio.run(self.corridor.walk(visitor))
        assert self.admission.busy == 0
        return visitor


def test_a_good_call_walks_through_all_rooms_in_order() -> None:
    """Intent, engine, outcome, answer; one request counted."""
    bench = Bench()
    visitor = bench.walk(Visitor())
    assert visitor.answer == b"the end"
    assert bench.kinds == ["intent", "outcome"]
    assert bench.counted() == {("vestry_requests_total", "200"): 1}


@pytest.mark.parametrize(
    ("visitor", "code"),
    [
        (lambda: Visitor(credential=None), "invalid_api_key"),
        (lambda: Visitor(credential="vst_bad"), "invalid_api_key"),
        (lambda: Visitor(body=InvalidRequest(param="n")), "invalid_request"),
        (lambda: Visitor(body=call(model="none-such")), "model_not_found"),
    ],
)
def test_what_is_refused_before_the_intent_is_one_record(visitor: Callable[[], Visitor], code: str) -> None:
    """No engine is asked; the refusal is recorded before it is told; it is counted once by status and by cause."""
    bench = Bench()
    refused = bench.walk(visitor())
    assert refused.refusal is not None
    assert refused.refusal.code == code
    assert bench.kinds == ["refusal"]
    assert bench.forwarded == 0
    status = str(refused.refusal.status)
    assert bench.counted() == {("vestry_requests_total", status): 1, ("vestry_refusals_total", code): 1}


def failing(fault: Exception) -> Callable[[], Awaitable[Outcome]]:
    """An engine of which this comes."""

    async def engine() -> Outcome:
        raise fault

    return engine


def test_a_failure_of_the_engine_is_an_outcome() -> None:
    """The intent gets its outcome, with the tries and the replica; the client is told."""
    fault = EngineFailed("status")
    fault.attempts, fault.replica = 2, "b"
    bench = Bench(failing(fault))
    assert bench.walk(Visitor()).refusal is fault
    assert bench.kinds == ["intent", "outcome"]
    record = bench.journal.records[-1]
    assert (record["ending"], record["attempts"], record["replica"]) == ("failed", 2, "b")


def test_a_request_that_the_engine_refuses_is_an_outcome_too() -> None:
    """400 after the intent: refused, not failed."""
    bench = Bench(failing(InvalidRequest()))
    bench.walk(Visitor())
    assert [record.get("ending") for record in bench.journal.records] == [None, "refused"]


def test_a_fault_of_ours_is_answered_and_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """500 without a word about the cause; the cause is in the log, under the request's id."""
    bench = Bench(failing(KeyError("a secret")))
    with caplog.at_level(logging.ERROR):
        visitor = bench.walk(Visitor())
    assert visitor.refusal is not None
    assert (visitor.refusal.status, "secret" in visitor.refusal.reason) == (500, False)
    assert bench.kinds == ["intent", "outcome"]
    assert "req-1" in caplog.text


def test_a_client_that_left_is_recorded_and_not_answered() -> None:
    """Nobody is there to be told."""
    bench = Bench()
    visitor = bench.walk(Visitor(body=ClientLeft()))
    assert (visitor.refusal, visitor.answer) == (None, None)
    assert bench.journal.records[-1]["code"] == "client_closed_request"


def test_without_a_record_nothing_is_served() -> None:
    """The intent cannot be written: no engine, 503. A refusal that cannot be written is 503 too."""
    for visitor in (Visitor(), Visitor(credential=None)):
        bench = Bench()
        bench.journal.fail()
        assert isinstance(bench.walk(visitor).refusal, AuditUnavailable)
        assert bench.forwarded == 0
        assert bench.kinds == []


def test_without_an_outcome_nothing_is_delivered() -> None:
    """The outcome cannot be written: the answer is not sent, and the call is counted once, by what its caller gets."""
    bench = Bench()

    async def engine() -> Outcome:
        bench.journal.fail()
        return LEFT

    bench._engine = engine
    visitor = bench.walk(Visitor())
    assert visitor.answer is None
    assert isinstance(visitor.refusal, AuditUnavailable)
    assert bench.counted() == {
        ("vestry_requests_total", "503"): 1,
        ("vestry_refusals_total", "audit_unavailable"): 1,
    }


def test_looking_is_one_outcome_without_intent() -> None:
    """What the server answers by itself holds a place too, and is recorded before it is told."""
    bench = Bench()
    visitor = Visitor()

    def answer(principal: Principal, house: House) -> bytes:
        assert (principal.subject, house.tenants) == ("alice", {"default": Tenant()})
        assert bench.admission.busy == 1
        return b"models"

    asyncio.run(bench.corridor.look(visitor, answer))
    assert (visitor.answer, bench.kinds) == (b"models", ["outcome"])

    def none(principal: Principal, house: House) -> bytes:
        raise ModelNotFound

    asyncio.run(bench.corridor.look(Visitor(), none))
    assert bench.kinds == ["outcome", "refusal"]
    assert bench.admission.busy == 0


def test_what_no_route_takes_is_recorded() -> None:
    """404 at an unknown path is a refusal like any other."""
    bench = Bench()
    visitor = Visitor()
    asyncio.run(bench.corridor.turn_away(visitor, NotFound()))
    assert isinstance(visitor.refusal, NotFound)
    assert bench.kinds == ["refusal"]


# The server's end -----------------------------------------------------------------------------------------------


def cut_off(bench: Bench, visitor: Visitor, when: Callable[[], object]) -> None:
    """Walk, and cancel the walk once this is so. It ends by itself, without an exception."""

    async def run() -> None:
        task = asyncio.ensure_future(bench.corridor.walk(visitor))
        await until(when)
        task.cancel()
        bench.journal.mend()
        await task

    asyncio.run(run())
    assert bench.admission.busy == 0


def test_a_call_that_is_cut_off_at_the_engine_is_told_and_recorded() -> None:
    """503, that the server stops; its intent has an outcome."""

    async def engine() -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    bench, visitor = Bench(engine), Visitor()
    cut_off(bench, visitor, lambda: bench.forwarded)
    assert visitor.refusal is not None
    assert (visitor.refusal.status, visitor.refusal.reason) == (503, "The server is stopping.")
    assert bench.kinds == ["intent", "outcome"]
    assert bench.journal.records[-1]["ending"] == "failed"


def test_a_call_that_is_cut_off_while_its_intent_is_written() -> None:
    """No engine was asked; the refusal is recorded."""
    bench, visitor = Bench(), Visitor()
    bench.journal.hang()
    cut_off(bench, visitor, lambda: bench.admission.busy)
    assert visitor.refusal is not None
    assert bench.forwarded == 0
    assert "refusal" in bench.kinds


@pytest.mark.parametrize("route", ["engine", "server"])
def test_a_call_that_is_cut_off_while_its_outcome_is_written_has_no_second_record(route: str) -> None:
    """The outcome is on its way to the disk: the client is told that the server stops, and no refusal stands beside it,
    whether an engine answered or the server by itself.
    """

    async def run() -> None:
        async def engine() -> Outcome:
            bench.journal.hang()
            return LEFT

        bench, visitor = Bench(engine), Visitor()

        def answer(_principal: Principal, _house: House) -> bytes:
            bench.journal.hang()
            return b"models"

        walk = bench.corridor.walk(visitor) if route == "engine" else bench.corridor.look(visitor, answer)
        task = asyncio.ensure_future(walk)
        await until(lambda: bench.journal.hung)
        task.cancel()
        await asyncio.sleep(0)
        bench.journal.mend()
        await task
        assert isinstance(visitor.refusal, Stopping)
        assert bench.kinds == [*(["intent"] if route == "engine" else []), "outcome"]

    asyncio.run(run())


def test_an_answer_that_is_being_sent_is_not_answered_a_second_time() -> None:
    """Cut off behind its outcome, while a slow client reads: no second record, no second answer."""
    bench, visitor = Bench(), Visitor()
    visitor.blocked = asyncio.Event()
    cut_off(bench, visitor, lambda: visitor.finishing)
    assert visitor.refusal is None
    assert bench.kinds == ["intent", "outcome"]
