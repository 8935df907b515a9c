"""The laws of seams.Journal, over the real log and the fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from fakes.audit import SIGNING, FaultyFiles, read
from fakes.calls import intent, outcome
from fakes.journal import MemoryJournal
from support.loops import until
from vestry.audit.log import AuditLog
from vestry.errors import AuditUnavailable
from vestry.seams import Journal, Record

COMMIT_SECONDS = 1.0


class Bench(Protocol):
    """A journal with its switches."""

    journal: Journal

    def fail(self) -> None: ...
    def hang(self) -> None: ...
    def mend(self) -> None: ...
    def records(self) -> list[dict[str, Any]]: ...
    async def close(self) -> None: ...


class RealBench:
    """The log on real files, whose fdatasync fails or hangs on demand."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = FaultyFiles()
        self._log = AuditLog.open(
            directory,
            "server",
            signing=SIGNING,
            commit_seconds=COMMIT_SECONDS,
            segment_bytes=1 << 20,
            files=self._files,
            probe_seconds=0.05,
        )
        self.journal: Journal = self._log

    def fail(self) -> None:
        self._files.fail("sync")

    def hang(self) -> None:
        self._files.fail("sync", "hang", times=1)

    def mend(self) -> None:
        self._files.mend()

    def records(self) -> list[dict[str, Any]]:
        return [record for record in read(self._directory) if record["type"] in {"intent", "outcome"}]

    async def close(self) -> None:
        self._files.mend()
        await self._log.close()


class FakeBench:
    """The fake, with the switches that it ships with."""

    def __init__(self, directory: Path) -> None:
        self._fake = MemoryJournal(commit_seconds=COMMIT_SECONDS)
        self.journal: Journal = self._fake
        self.fail, self.hang, self.mend = self._fake.fail, self._fake.hang, self._fake.mend

    def records(self) -> list[dict[str, Any]]:
        return self._fake.records

    async def close(self) -> None:
        self._fake.mend()


Law = Callable[[Bench], Coroutine[None, None, None]]


@pytest.fixture(params=[RealBench, FakeBench], ids=["log", "fake"])
def hold(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Law], None]:
    """Runs a law over one implementation, on a loop of its own."""

    def run(law: Law) -> None:
        async def whole() -> None:
            bench = request.param(tmp_path)
            try:
                await law(bench)
            finally:
                await bench.close()

        asyncio.run(whole())

    return run


async def refused(journal: Journal, record: Record) -> float:
    """Append what must be refused; returns how long that took."""
    began = time.monotonic()
    with pytest.raises(AuditUnavailable):
        await journal.append(record)
    return time.monotonic() - began


def test_a_record_is_there_when_append_returns(hold: Callable[[Law], None]) -> None:
    """When the awaitable returns, the record is in the log with every field that was given."""

    async def law(bench: Bench) -> None:
        given = intent("req-1")
        fields = msgspec.to_builtins(given)
        await bench.journal.append(given)
        (kept,) = bench.records()
        assert kept.items() >= fields.items()
        assert bench.journal.healthy

    hold(law)


def test_order_is_kept(hold: Callable[[Law], None]) -> None:
    """Records appended at once stand in the order of the calls, with rising indices and the log's origin."""

    async def law(bench: Bench) -> None:
        names = [f"req-{number}" for number in range(200)]
        await asyncio.gather(*(bench.journal.append(intent(name)) for name in names))
        found = bench.records()
        assert [record["request_id"] for record in found] == names
        indices = [record["index"] for record in found]
        assert indices == list(range(indices[0], indices[0] + len(names)))
        assert len({record["origin"] for record in found}) == 1

    hold(law)


def test_a_failed_write_is_told(hold: Callable[[Law], None]) -> None:
    """A write that fails raises AuditUnavailable, health turns false, and what follows is refused at once."""

    async def law(bench: Bench) -> None:
        await bench.journal.append(intent("before"))
        bench.fail()
        await refused(bench.journal, intent("during"))
        await until(lambda: not bench.journal.healthy)
        assert await refused(bench.journal, intent("refused")) < COMMIT_SECONDS / 2
        bench.mend()
        await until(lambda: bench.journal.healthy)
        assert [record["request_id"] for record in bench.records()] == ["before"]

    hold(law)


def test_it_recovers_by_itself(hold: Callable[[Law], None]) -> None:
    """Once the fault has gone health comes back without traffic, and records are written again."""

    async def law(bench: Bench) -> None:
        bench.fail()
        await refused(bench.journal, intent("during"))
        bench.mend()
        await until(lambda: bench.journal.healthy)
        await bench.journal.append(intent("after"))
        assert [record["request_id"] for record in bench.records()] == ["after"]

    hold(law)


def test_a_hung_write_ends_at_the_deadline(hold: Callable[[Law], None]) -> None:
    """Nobody waits longer than the deadline for a write that hangs, and meanwhile others are refused at once."""

    async def law(bench: Bench) -> None:
        bench.hang()
        took = await refused(bench.journal, intent("hung"))
        assert COMMIT_SECONDS * 0.8 <= took < COMMIT_SECONDS + 3
        assert not bench.journal.healthy
        assert await refused(bench.journal, intent("refused")) < COMMIT_SECONDS / 2
        bench.mend()
        await until(lambda: bench.journal.healthy)
        await bench.journal.append(outcome("after"))
        assert bench.records()[-1]["request_id"] == "after"

    hold(law)


def test_failed_but_persisted(hold: Callable[[Law], None]) -> None:
    """A record whose caller was told that it failed may be in the log; one whose caller was told success is."""

    async def law(bench: Bench) -> None:
        await bench.journal.append(intent("told"))
        bench.hang()
        await refused(bench.journal, intent("late"))
        bench.mend()
        await until(lambda: bench.journal.healthy)
        assert [record["request_id"] for record in bench.records()] == ["told", "late"]

    hold(law)


def test_a_caller_that_leaves_loses_nothing(hold: Callable[[Law], None]) -> None:
    """A record is written though its caller was cancelled while it waited, and others are not disturbed."""

    async def law(bench: Bench) -> None:
        left = asyncio.ensure_future(bench.journal.append(intent("left")))
        stays = bench.journal.append(intent("stays"))
        left.cancel()
        await stays
        assert [record["request_id"] for record in bench.records()] == ["left", "stays"]
        assert bench.journal.healthy

    hold(law)


def test_the_fake_can_persist_what_it_says_failed() -> None:
    """The fake's switch for "failed but persisted" writes one record, tells its caller otherwise, and is unhealthy."""

    async def law() -> None:
        fake = MemoryJournal()
        fake.fail_but_persist()
        await refused(fake, intent("kept"))
        await refused(fake, intent("not kept"))
        assert [record["request_id"] for record in fake.of("intent")] == ["kept"]
        assert not fake.healthy

    asyncio.run(law())
