"""The reconciler, where it is stopped between a record's being durable and its own being told so."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from fakes.audit import ORIGIN, SIGNING
from vestry.audit.canonical import said
from vestry.audit.completeness import Ledger, Reading, Work
from vestry.audit.condition import condition
from vestry.audit.log import AuditLog
from vestry.audit.records import Records
from vestry.composition.reconcile import Reconciler
from vestry.seams import Record


class Deaf:
    """A journal that writes, and does not come to say so for a record of this cause."""

    def __init__(self, journal: AuditLog, cause: str) -> None:
        self._journal, self._cause = journal, cause
        self.healthy = True
        self.written = asyncio.Event()

    def append(self, record: Record) -> asyncio.Future[None]:
        written = self._journal.append(record)
        if said(record, "cause") != self._cause:
            return written
        written.add_done_callback(lambda _: self.written.set())
        return asyncio.get_running_loop().create_future()


def test_what_is_recorded_twice_counts_once(tmp_path: Path) -> None:
    """The difference stands in the log when the server stops, but was not seen to; so the last record says it again,
    for the same time: the state of the log has it once."""

    async def run() -> None:
        log = AuditLog.open(tmp_path, ORIGIN, signing=SIGNING, commit_seconds=10.0, segment_bytes=1 << 20)
        journal = Deaf(log, "difference")
        counted = [Work(0, 0, 0), Work(24, 7, 1)]

        async def look() -> Reading:
            return Reading(counted.pop(0) if len(counted) > 1 else counted[0])

        reconciler = Reconciler(
            Ledger(),
            {"engine": look},
            journal,
            Records(),
            home=tmp_path / ORIGIN,
            seconds=0.01,
            shared=False,
            unreadable=ValueError,
        )
        running = asyncio.create_task(reconciler.run())
        async with asyncio.timeout(10):
            await journal.written.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await reconciler.stop()
        await log.close()

    asyncio.run(run())
    (engine,) = condition(tmp_path / ORIGIN, ORIGIN).engines
    assert engine.unexplained == Work(24, 7, 1)
