"""The record step: what is durable before what, and what happens when it cannot be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

import pytest

from fakes.calls import GRANT, PRINCIPAL, call, head
from fakes.journal import MemoryJournal
from vestry.audit.records import Records
from vestry.errors import AuditUnavailable, InvalidKey, MalformedRequest
from vestry.record import Recorder
from vestry.types import Ending, Outcome


def bench() -> tuple[Recorder, MemoryJournal]:
    """A recorder over a journal in memory."""
    journal = MemoryJournal(commit_seconds=0.05)
    return Recorder(journal, Records()), journal


def test_a_life_begins_with_a_start_and_ends_with_a_stop() -> None:
    """Start and stop are records."""

    async def life() -> list[str]:
        recorder, journal = bench()
        await recorder.started(["server"])
        await recorder.stopped()
        return [record["type"] for record in journal.records]

    assert asyncio.run(life()) == ["server.start", "server.stop"]


def test_a_call_has_an_intent_and_an_outcome() -> None:
    """Both are in the journal when the awaits return, under the call's id."""

    async def walk() -> None:
        recorder, journal = bench()
        await recorder.intent(head("req-9"), PRINCIPAL, call(), GRANT)
        assert [record["request_id"] for record in journal.of("intent")] == ["req-9"]
        await recorder.outcome(head("req-9"), PRINCIPAL, call(), GRANT, Outcome(Ending.COMPLETE, 200))
        assert [record["ending"] for record in journal.of("outcome")] == ["complete"]

    asyncio.run(walk())


def test_a_refusal_is_one_record() -> None:
    """With what was known of the caller."""

    async def refuse() -> None:
        recorder, journal = bench()
        await recorder.refusal(head("req-9"), None, None, InvalidKey())
        (record,) = journal.of("refusal")
        assert record["code"] == "invalid_api_key"

    asyncio.run(refuse())


def test_nothing_is_said_to_be_recorded_when_it_is_not() -> None:
    """Each method fails closed, with AuditUnavailable."""

    async def each() -> None:
        recorder, journal = bench()
        journal.fail()
        writes: list[Awaitable[None]] = [
            recorder.started(["server"]),
            recorder.intent(head(), PRINCIPAL, call(), GRANT),
            recorder.outcome(head(), PRINCIPAL, call(), GRANT, Outcome(Ending.COMPLETE, 200)),
            recorder.refusal(head(), None, None, InvalidKey()),
        ]
        for write in writes:
            with pytest.raises(AuditUnavailable):
                await write

    asyncio.run(each())


def test_a_stop_that_cannot_be_recorded_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The server still stops."""

    async def stop() -> None:
        recorder, journal = bench()
        journal.fail()
        await recorder.stopped()

    with caplog.at_level(logging.ERROR):
        asyncio.run(stop())
    assert "stop could not be recorded" in caplog.text


def test_what_is_refused_at_the_door_is_recorded_behind_its_answer() -> None:
    """The answer does not wait for the record, and the stop does."""

    async def knock() -> None:
        recorder, journal = bench()
        recorder.at_the_door(MalformedRequest(), "req-9", "10.0.0.9")
        assert journal.records == []
        await recorder.stopped()
        (record,) = journal.of("refusal")
        assert (record["request_id"], record["source"], record["code"]) == ("req-9", "10.0.0.9", "malformed_request")
        assert journal.records[-1]["type"] == "server.stop"

    asyncio.run(knock())


def test_a_door_refusal_that_cannot_be_recorded_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It was answered already; nothing else can be done."""

    async def knock() -> None:
        recorder, journal = bench()
        journal.fail()
        recorder.at_the_door(MalformedRequest(), "req-9", "10.0.0.9")
        await recorder.stopped()

    with caplog.at_level(logging.WARNING):
        asyncio.run(knock())
    assert "at the door could not be recorded" in caplog.text
