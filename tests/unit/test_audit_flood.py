"""Floods of refusals: what is written of them, what is counted, and that nothing grows without bound."""

from __future__ import annotations

import asyncio
import json

import pytest

from fakes.audit import HandClock, validator
from fakes.calls import PRINCIPAL, head
from fakes.journal import MemoryJournal
from support.loops import until
from vestry.audit.calls import RefusalRecord
from vestry.audit.canonical import LEAF_BYTES, encode
from vestry.audit.fields import RecordType
from vestry.audit.flood import Flood, RefusalLog
from vestry.audit.records import Records
from vestry.errors import AuditUnavailable, InvalidKey, RateLimited


def flood(hand: HandClock, each: int = 3, every: int = 10, listed: int = 4) -> Flood:
    return Flood(clock=hand.clock, each=each, every=every, listed=listed)


def test_the_first_of_a_kind_are_records() -> None:
    """Of one caller and code, the first few in a second are written, the rest counted; the next second starts anew."""
    hand = HandClock()
    gate = flood(hand)
    assert [gate.admit("10.0.0.1", "invalid_api_key") for _ in range(5)] == [True, True, True, False, False]
    assert gate.admit("10.0.0.2", "invalid_api_key")
    assert gate.admit("10.0.0.1", "rate_limit_exceeded")
    assert gate.pending == 2
    hand.both(1.0)
    assert gate.admit("10.0.0.1", "invalid_api_key")


def test_all_together_are_bounded() -> None:
    """However many callers there are, a second holds no more records than the bound."""
    gate = flood(HandClock())
    assert sum(gate.admit(f"10.0.{number // 256}.{number % 256}", "x") for number in range(1000)) == 10
    assert gate.pending == 990


def test_a_summary() -> None:
    """A summary counts by caller and code, the most frequent first, and says how many it could not list."""
    hand = HandClock()
    gate = flood(hand, each=0)
    for number in range(6):
        for _ in range(number + 1):
            gate.admit(f"10.0.0.{number}", "invalid_api_key")
    hand.both(0.5)
    assert gate.summary() == {
        "began": "2001-09-09T01:46:40.000000Z",
        "duration_us": 500_000,
        "total": 21,
        "counts": [
            {"who": f"10.0.0.{number}", "code": "invalid_api_key", "count": number + 1} for number in (3, 2, 1, 0)
        ],
        "others": 11,
    }
    assert gate.summary() is None
    assert gate.pending == 0


def test_a_summary_that_could_not_be_written_is_taken_back() -> None:
    """Counts that were not written are part of the next summary, which begins where they began."""
    hand = HandClock()
    gate = flood(hand, each=0)
    for number in range(6):
        gate.admit(f"10.0.0.{number}", "a")
    hand.both(1.0)
    details = gate.summary()
    assert details is not None
    hand.both(1.0)
    gate.admit("10.0.0.0", "a")
    gate.restore(details)
    again = gate.summary()
    assert again is not None
    assert (again["total"], again["others"], again["duration_us"]) == (7, 2, 2_000_000)
    assert again["counts"][0] == {"who": "10.0.0.0", "code": "a", "count": 2}


def test_memory_and_leaf_are_bounded() -> None:
    """A hundred thousand callers make one summary that fits into a leaf, and fits the schema."""
    hand = HandClock()
    gate = Flood(clock=hand.clock, listed=10_000)
    for number in range(100_000):
        gate.admit(f"key-{number:060d}", "c" * 64)
    details = gate.summary()
    assert details is not None
    record = {**Records().event(RecordType.REFUSALS_SUMMARY, **details), "index": 0, "origin": "server"}
    assert len(encode(record)) < LEAF_BYTES
    validator(RecordType.REFUSALS_SUMMARY).validate(json.loads(encode(record)))
    assert (len(details["counts"]), details["total"]) == (256, 100_000 - 50)


# The driver ------------------------------------------------------------------------------------------------------


def refusal(records: Records, number: int = 0) -> RefusalRecord:
    return records.refusal(head(f"req-{number}"), None, None, InvalidKey())


def test_a_flood_becomes_a_summary() -> None:
    """Of a flood a few records and, within about a second, one summary are written; together they count it all."""

    async def run() -> None:
        journal, records = MemoryJournal(), Records()
        log = RefusalLog(journal, records, Flood(each=3))
        await asyncio.gather(*(log.append(refusal(records, number)) for number in range(500)))
        assert len(journal.of("refusal")) == 3
        await until(lambda: journal.of("refusals.summary"), seconds=20)
        (summary,) = journal.of("refusals.summary")
        assert summary["counts"] == [{"who": "10.1.2.3", "code": "invalid_api_key", "count": 497}]
        await log.append(refusal(records))
        await log.close()
        assert len(journal.records) == 5

    asyncio.run(run())


def test_a_key_is_counted_by_its_id() -> None:
    """Refusals of a known key are told apart by the key, not by the address, and those of nobody have a place too."""

    async def run() -> None:
        journal, records = MemoryJournal(), Records()
        log = RefusalLog(journal, records, Flood(each=0))
        await log.append(records.refusal(head(), PRINCIPAL, None, RateLimited()))
        await log.append(records.refusal(head(source=""), None, None, InvalidKey()))
        await log.close()
        (summary,) = journal.of("refusals.summary")
        assert {row["who"] for row in summary["counts"]} == {"k0123456789", "?"}

    asyncio.run(run())


def test_nothing_is_counted_into_the_void() -> None:
    """While the journal is not healthy, a refusal that would be counted fails closed like any other record."""

    async def run() -> None:
        journal, records = MemoryJournal(), Records()
        log = RefusalLog(journal, records, Flood(each=1))
        journal.fail()
        for number in range(3):
            with pytest.raises(AuditUnavailable):
                await log.append(refusal(records, number))
        journal.mend()
        await log.close()
        (summary,) = journal.of("refusals.summary")
        assert summary["total"] == 2

    asyncio.run(run())


def test_a_summary_that_failed_comes_again() -> None:
    """If a summary cannot be written, its counts are in the one that can; closing waits for one under way."""

    async def run() -> None:
        journal, records = MemoryJournal(), Records()
        log = RefusalLog(journal, records, Flood(each=0))
        await log.append(refusal(records))
        journal.fail()
        await until(lambda: not journal.healthy, seconds=20)
        journal.mend()
        await until(lambda: journal.of("refusals.summary"), seconds=20)
        await log.close()
        assert [record["total"] for record in journal.records] == [1]

    asyncio.run(run())


def test_close_says_when_counts_are_lost() -> None:
    """Counts that cannot be written at the end raise, so that the server can say so."""

    async def run() -> None:
        journal, records = MemoryJournal(), Records()
        log = RefusalLog(journal, records, Flood(each=0))
        await log.append(refusal(records))
        journal.fail()
        with pytest.raises(AuditUnavailable):
            await log.close()
        journal.mend()
        await RefusalLog(journal, records).close()
        assert not journal.records

    asyncio.run(run())


def test_a_slow_journal_gets_one_summary_at_a_time() -> None:
    """While a summary is being written, new counts wait for their turn, and closing waits for them all."""

    async def run() -> None:
        journal, records = MemoryJournal(commit_seconds=30), Records()
        log = RefusalLog(journal, records, Flood(each=0))
        await log.append(refusal(records))
        journal.hang()
        await asyncio.sleep(1.1)
        await log.append(refusal(records))
        await log.append(refusal(records))
        await asyncio.sleep(1.1)
        journal.mend()
        await log.close()
        assert [record["total"] for record in journal.of("refusals.summary")] == [1, 2]

    asyncio.run(run())
