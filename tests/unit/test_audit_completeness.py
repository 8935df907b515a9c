"""The books of one engine: what is exact, what is bounded, and what no bound explains."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.calls import GRANT, MODEL, PRINCIPAL, call, head
from fakes.wires import MemoryEngine
from vestry.adapters.counters import MOST_SERIES, READ_BYTES, NoReading, parse, read_counters
from vestry.audit.completeness import (
    NOTHING,
    UNKNOWN,
    Account,
    Bounds,
    Ledger,
    Reading,
    Told,
    Work,
    engine_work,
    shares,
)
from vestry.audit.records import Records
from vestry.types import Ending, Outcome, Usage

PAGE = """\
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
vllm:prompt_tokens_total{engine="0",model_name="a } b"} 40.0
vllm:prompt_tokens_total{engine="1",model_name="small"} 2.0 1700000000000
vllm:prompt_tokens_created{engine="0"} 1.7e9
vllm:generation_tokens_total{engine="0"} 7.0
vllm:request_success_total{finished_reason="stop"} 1.0
vllm:request_success_total{finished_reason="abort"} 2.0
vllm:num_requests_running{engine="0"} 1.0
vllm:num_requests_waiting{engine="0"} 4.0
process_start_time_seconds 1.79564182829e+09
"""


def outcome(**changes: Any) -> Outcome:
    given: dict[str, Any] = {
        "ending": Ending.COMPLETE, "status": 200, "usage": Usage(10, 5), "finish_reasons": ("stop",), "replica": "a",
    }  # fmt: skip
    return Outcome(**{**given, **changes})


def test_a_whole_call_is_exact_and_says_no_more_than_its_tokens() -> None:
    """The common outcome has no `engine_work`; both readers of it see the same."""
    assert engine_work(call(), GRANT, outcome()) is None
    (share,) = shares(Told("outcome", ending="complete", replica="a", prompt_tokens=10, completion_tokens=5))
    assert share.least == share.most == (10, 5, 1)


@pytest.mark.parametrize(
    ("made", "ended", "expected"),
    [
        (call(choices=3, sampling={"n": 3}), outcome(finish_reasons=("stop",) * 3), [("a", (30, 5, 3), (30, 5, 3))]),
        (call(choices=4, sampling={"n": 2}), outcome(finish_reasons=("stop",) * 4), [("a", (20, 5, 4), (20, 5, 4))]),
        (call(), outcome(ending=Ending.CANCELLED), [("a", (0, 0, 0), (2048, 2048, 1))]),
        (call(completion_tokens=16), outcome(ending=Ending.TRUNCATED), [("a", (0, 0, 0), (2048, 16, 1))]),
        (call(completion_tokens=0), outcome(ending=Ending.TRUNCATED), [("a", (0, 0, 0), (2048, 1, 1))]),
        (call(completion_tokens=9999, choices=2), outcome(ending=Ending.FAILED), [("a", (0, 0, 0), (4096, 4096, 2))]),
        (call(), outcome(tried=("b",)), [("b", (0, 0, 0), (2048, 2048, 1)), ("a", (10, 5, 1), (10, 5, 1))]),
        (call(), outcome(ending=Ending.FAILED, replica="", tried=("b",)), [("b", (0, 0, 0), (2048, 2048, 1))]),
        (call(), outcome(tried=("a",)), [("a", (10, 5, 1), (2058, 2053, 2))]),
        (
            call(),
            outcome(tried=("b", "b", "a")),
            [("b", (0, 0, 0), (4096, 4096, 2)), ("a", (10, 5, 1), (2058, 2053, 2))],
        ),
    ],
)
def test_other_calls_say_their_bounds(made: Any, ended: Outcome, expected: list[Any]) -> None:
    """Several answers count the prompt for each; what did not end whole may be anything up to all that was asked."""
    rows = engine_work(made, GRANT, ended)
    assert rows is not None
    assert [(row["replica"], tuple(row["least"]), tuple(row["most"])) for row in rows] == expected


def test_a_call_that_reached_no_engine_is_nothing() -> None:
    """No replica, no work; an older record of a cancelled call is bounded by what no context exceeds."""
    assert engine_work(call(), GRANT, outcome(ending=Ending.REFUSED, replica="")) is None
    assert list(shares(Told("outcome", ending="refused"))) == []
    (share,) = shares(Told("outcome", ending="cancelled", replica="a"))
    assert (share.least, share.most) == (NOTHING, UNKNOWN)


def test_the_ledger_follows_calls_from_intent_to_outcome() -> None:
    """In progress at every replica of the model; then recorded at the one that answered; a refusal leaves nothing."""
    ledger, records = Ledger(), Records()
    ledger.began("1", call(completion_tokens=16), GRANT)
    ledger.began("2", call(), GRANT)
    assert ledger.flying("a") == (2, Work(4096, 2064, 2))
    assert ledger.flying("other") == (0, NOTHING)
    ledger.ended(records.outcome(head("1"), PRINCIPAL, call(), GRANT, outcome()))
    ledger.refused("2")
    ledger.refused("never seen")
    assert ledger.in_progress == 0
    assert ledger.of("a") == Bounds(Work(10, 5, 1), Work(10, 5, 1))
    cancelled = outcome(ending=Ending.CANCELLED, usage=Usage(5, 3, estimated=True))
    ledger.ended(records.outcome(head("3"), PRINCIPAL, call(), GRANT, cancelled))
    assert ledger.of("a") == Bounds(Work(10, 5, 1), Work(10 + 2048, 5 + 2048, 2))
    assert MODEL.context_length == 2048


def exact(work: Work) -> Bounds:
    return Bounds(work, work)


def test_what_is_beyond_all_bounds_is_unexplained_and_stays_so() -> None:
    """Once, however often it is looked at; more adds to it."""
    account = Account()
    account.read(Reading(Work(100, 100, 100)), exact(NOTHING), NOTHING)
    for _ in range(3):
        account.read(Reading(Work(110, 105, 101)), exact(NOTHING), NOTHING)
        assert account.unexplained == (10, 5, 1)
    account.read(Reading(Work(120, 110, 102)), exact(Work(10, 5, 1)), NOTHING)
    assert account.unexplained == (10, 5, 1)
    account.read(Reading(Work(121, 110, 102)), exact(Work(10, 5, 1)), NOTHING)
    assert account.unexplained == (11, 5, 1)


def test_work_in_progress_is_slack_while_it_lasts() -> None:
    """And when the call has ended with less, the difference shows."""
    account = Account()
    account.read(Reading(NOTHING), exact(NOTHING), NOTHING)
    account.read(Reading(Work(50, 20, 1), busy=1), exact(NOTHING), Work(100, 100, 1))
    assert account.unexplained == NOTHING
    account.read(Reading(Work(50, 20, 2)), exact(Work(10, 5, 1)), NOTHING)
    assert account.unexplained == (40, 15, 1)


def test_bounds_are_settled_when_the_engine_is_idle() -> None:
    """Two looks alike, nothing in progress: a cancelled call's bounds are no place to hide in any more."""
    account, bounds = Account(), Bounds(NOTHING, Work(1000, 1000, 10))
    account.read(Reading(NOTHING), exact(NOTHING), NOTHING)
    account.read(Reading(Work(15, 4, 0)), bounds, NOTHING)
    account.read(Reading(Work(15, 4, 0)), bounds, NOTHING)
    assert account.unexplained == account.uncounted == NOTHING
    account.read(Reading(Work(16, 4, 0)), bounds, NOTHING)
    assert account.unexplained == (1, 0, 0)


@pytest.mark.parametrize("busy", [True, False])
def test_an_engine_that_works_or_changes_settles_nothing(busy: bool) -> None:
    """Nor does a call in progress."""
    account, bounds = Account(), Bounds(Work(50, 50, 5), Work(1000, 1000, 10))
    account.read(Reading(NOTHING), exact(NOTHING), NOTHING)
    for _ in range(3):
        account.read(Reading(NOTHING, busy=int(busy)), bounds, NOTHING if busy else Work(1, 1, 1))
    assert account.uncounted == NOTHING
    account.read(Reading(NOTHING), bounds, NOTHING)
    account.read(Reading(NOTHING), bounds, NOTHING)
    assert account.uncounted == (50, 50, 5)


@pytest.mark.parametrize("second", [Reading(Work(5, 5, 1), started=2), Reading(Work(5, 5, 1), started=1)])
def test_a_restart_is_no_alarm(second: Reading) -> None:
    """By its start time, or by a counter that went back. What the old one did since the last look is uncounted."""
    account = Account()
    account.read(Reading(NOTHING, started=1), exact(NOTHING), NOTHING)
    account.read(Reading(Work(50, 50, 10), started=1), exact(Work(50, 50, 10)), NOTHING)
    recorded = exact(Work(75, 75, 13))
    account.read(second, recorded, NOTHING)
    account.read(second, recorded, NOTHING)
    assert (account.restarts, account.unexplained, account.uncounted) == (1, NOTHING, (20, 20, 2))
    account.read(Reading(Work(6, 5, 1), second.started), recorded, NOTHING)
    assert account.unexplained == (1, 0, 0)


def test_an_account_goes_on_from_an_earlier_life() -> None:
    """What that life recorded after its last reading is explained; the rest is not."""
    account = Account()
    account.resume(Reading(Work(100, 100, 10), started=1), exact(Work(10, 5, 1)))
    account.read(Reading(Work(130, 110, 12), started=1), exact(NOTHING), NOTHING)
    assert account.unexplained == (20, 5, 1)
    assert (account.reported, account.seen) == ((30, 10, 2), NOTHING)
    account.read(Reading(Work(131, 112, 13), started=1), exact(Work(1, 2, 1)), NOTHING)
    assert account.seen == (1, 2, 1)


def test_shared_engines_are_added_up_and_not_judged() -> None:
    """Neither one way nor the other."""
    account = Account()
    for work in (NOTHING, Work(10, 10, 1), Work(10, 10, 1)):
        account.read(Reading(work), exact(NOTHING), NOTHING, judged=False)
    assert (account.reported, account.unexplained, account.uncounted) == ((10, 10, 1), NOTHING, NOTHING)


calls_made = st.lists(
    st.tuples(
        st.sampled_from(["whole", "cancelled", "behind", "restart", "look"]),
        st.integers(0, 50),
        st.integers(0, 50),
    ),
    max_size=40,
)


@given(calls_made)
@settings(max_examples=200, deadline=None)
def test_honest_work_is_never_unexplained_and_unexplained_is_never_more_than_there_was(steps: list[Any]) -> None:
    """Whatever the order of calls, cancellations, restarts and looks."""
    account, bounds, engine, started, secret = Account(), Bounds(), NOTHING, 1, NOTHING
    account.read(Reading(engine, started), bounds, NOTHING)
    for what, prompt, completion in steps:
        work = Work(prompt, completion, 1)
        if what == "whole":
            engine = engine.plus(work)
            bounds.add(work, work)
        elif what == "cancelled":
            engine = engine.plus(Work(prompt, completion // 2, 0))
            bounds.add(NOTHING, work)
        elif what == "behind":
            engine, secret = engine.plus(work), secret.plus(work)
        elif what == "restart":
            engine, started = NOTHING, started + 1
        account.read(Reading(engine, started), bounds, NOTHING)
        assert all(map(int.__le__, account.unexplained, secret))
    if all(what in {"whole", "behind", "look"} for what, _, _ in steps):
        assert account.unexplained == secret


# The engine's page


def test_a_page_is_read_and_its_series_are_added() -> None:
    """Labels may hold braces; a time behind the value, and other families, are nothing to us."""
    assert parse(PAGE.encode()) == Reading(Work(42, 7, 3), 1_795_641_828_290_000, 5)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("vllm:generation_tokens_total", "x", "no counter of completion tokens"),
        ("40.0", "NaN", "prompt tokens total is absurd"),
        ("40.0", "+Inf", "absurd"),
        ("40.0", "-1", "absurd"),
        ("40.0", "", "absurd"),
        ("40.0", "9007199254740991", "its counters are absurd"),
        ("1.79564182829e+09", "1e15", "absurd"),
    ],
)
def test_what_is_absurd_is_no_reading(old: str, new: str, why: str) -> None:
    """And the words say why without what the engine sent."""
    with pytest.raises(NoReading, match=why):
        parse(PAGE.replace(old, new, 1).encode())


def test_a_page_may_not_be_work() -> None:
    """One of nothing but lines is looked through at once; one of more series than an engine has is refused."""
    with pytest.raises(NoReading, match="no counter"):
        parse(b"\n" * READ_BYTES)
    with pytest.raises(NoReading, match="more series"):
        parse(PAGE.encode() + b'vllm:prompt_tokens_total{engine="0"} 1\n' * MOST_SERIES)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: ("vllm:prompt_tokens_total" + text).encode()))
@settings(max_examples=300, deadline=None)
def test_no_page_breaks_the_reader(page: bytes) -> None:
    """It is read or refused."""
    with suppress(NoReading):
        parse(page)


def answered(*pieces: bytes, status: int = 200, error: str | None = None) -> Reading:
    """What comes of such an answer."""

    async def run() -> Reading:
        engine = MemoryEngine()
        task = asyncio.ensure_future(read_counters(engine, 5.0))
        wire = await engine.wire()
        assert (wire.method, wire.path) == ("GET", "/metrics")
        wire.head(status)
        for piece in pieces:
            wire.data(piece)
        wire.end(error)
        return await task

    return asyncio.run(run())


def test_an_answer_in_pieces_is_one_page() -> None:
    """As it comes from a socket."""
    assert answered(PAGE[:100].encode(), PAGE[100:].encode()).work == (42, 7, 3)


@pytest.mark.parametrize(
    ("pieces", "options", "why"),
    [
        ((PAGE.encode(),), {"status": 404}, "answered with 404"),
        ((PAGE.encode(),), {"error": "the engine closed the connection"}, "closed the connection"),
        ((b"x" * READ_BYTES, b"x", PAGE.encode()), {}, "longer than"),
    ],
)
def test_any_other_answer_is_no_reading(pieces: tuple[bytes, ...], options: Any, why: str) -> None:
    """A wrong status, one that breaks off, one that does not end."""
    with pytest.raises(NoReading, match=why):
        answered(*pieces, **options)


@pytest.mark.parametrize("ends", [False, True])
def test_a_page_that_is_too_long_is_given_up_while_it_runs(ends: bool) -> None:
    """One that has ended has left its connection to whoever comes next: that is not closed under them."""

    async def run() -> None:
        engine = MemoryEngine()
        task = asyncio.ensure_future(read_counters(engine, 5.0))
        wire = await engine.wire()
        wire.head()
        wire.data(b"x" * (READ_BYTES + 1))
        if ends:
            wire.end()
        with pytest.raises(NoReading, match="longer than"):
            await task
        assert wire.closed is not ends

    asyncio.run(run())


def test_an_engine_that_hangs_refuses_or_was_idle() -> None:
    """Too late is no reading, and lets the connection go; a stale connection is tried again."""

    async def run() -> None:
        engine = MemoryEngine()
        with pytest.raises(NoReading, match="did not answer"):
            await read_counters(engine, 0.05)
        assert engine.wires[0].closed
        engine.refusing = True
        with pytest.raises(NoReading, match="connected"):
            await read_counters(engine, 5.0)
        engine = MemoryEngine()
        task = asyncio.ensure_future(read_counters(engine, 5.0))
        (await engine.wire()).drop_stale()
        second = await engine.wire(2)
        assert second.fresh
        second.head()
        second.data(PAGE.encode())
        second.end()
        assert (await task).busy == 5

    asyncio.run(run())
