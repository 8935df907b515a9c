"""Keeps refusals from filling the disk: the first of a kind are records, the rest of the second is counted.

`Flood` decides, and does no I/O; `RefusalLog` is the small driver around it. Per key (or address, where there
was no key) and error code a few refusals a second have a record of their own, and all together no more than a
bound; what goes beyond is counted by key and code in one `refusals.summary` record a second. Counts that are
not written yet are in memory: a crash loses those of the last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from vestry.audit.calls import RefusalRecord
from vestry.audit.fields import RecordType
from vestry.audit.forms import SUMMARY_COUNTS
from vestry.audit.records import Clock, Records, rfc3339
from vestry.errors import AuditUnavailable
from vestry.seams import Journal

_WINDOW_SECONDS = 1.0


class Flood:
    """Counts refusals in windows of one second. Memory is bounded by `every` + `listed` entries."""

    def __init__(self, *, clock: Clock | None = None, each: int = 5, every: int = 50, listed: int = 64) -> None:
        """At most `each` records a second for one (who, code), `every` for all; `listed` rows in a summary."""
        self._clock = clock or Clock()
        self._each = each
        self._every = every
        self._listed = min(listed, SUMMARY_COUNTS)
        self._admitted: dict[tuple[str, str], int] = {}
        self._admissions = 0
        self._counted: dict[tuple[str, str], int] = {}
        self._others = 0
        self._total = 0
        self._ends = 0.0
        self._began = (0.0, 0)
        self._before = self._began

    def admit(self, who: str, code: str) -> bool:
        """Whether this refusal gets a record of its own; if not, it has been counted."""
        now = self._clock.monotonic()
        if now >= self._ends:
            self._admitted.clear()
            self._admissions = 0
            self._ends = now + _WINDOW_SECONDS
        kind = (who, code)
        before = self._admitted.get(kind, 0)
        if before < self._each and self._admissions < self._every:
            self._admitted[kind] = before + 1
            self._admissions += 1
            return True
        self._count(kind)
        return False

    @property
    def pending(self) -> int:
        """How many refusals are counted and not yet in a summary."""
        return self._total

    def summary(self) -> dict[str, Any] | None:
        """The counts so far, as the details of a `refusals.summary` record, and a fresh start; None without any."""
        if not self._total:
            return None
        began, began_wall = self._before = self._began
        elapsed = self._clock.monotonic() - began
        details = {
            "began": rfc3339(began_wall),
            "duration_us": max(0, round(elapsed * 1_000_000)),
            "total": self._total,
            "counts": [
                {"who": who, "code": code, "count": count}
                for (who, code), count in sorted(self._counted.items(), key=lambda item: -item[1])
            ],
            "others": self._others,
        }
        self._counted = {}
        self._total = self._others = 0
        return details

    def restore(self, details: Mapping[str, Any]) -> None:
        """Take the counts of the last summary back: it could not be written."""
        for row in details["counts"]:
            self._count((row["who"], row["code"]), row["count"])
        self._total += details["others"]
        self._others += details["others"]
        self._began = self._before

    def _count(self, kind: tuple[str, str], times: int = 1) -> None:
        if not self._total:
            self._began = (self._clock.monotonic(), self._clock.wall())
        self._total += times
        if kind in self._counted or len(self._counted) < self._listed:
            self._counted[kind] = self._counted.get(kind, 0) + times
        else:
            self._others += times


class RefusalLog:
    """Appends refusals to a journal, or counts them. Fails closed, as the journal does."""

    def __init__(self, journal: Journal, records: Records, flood: Flood | None = None) -> None:
        self._journal = journal
        self._records = records
        self._flood = flood or Flood()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def append(self, record: RefusalRecord) -> None:
        """Take one refusal record: durable when this returns, or counted.

        Raises AuditUnavailable where the journal does, and for a refusal that would be counted while the journal
        is not healthy.
        """
        who = record.key_id or record.source or "?"
        if self._flood.admit(who, record.code):
            await self._journal.append(record)
            return
        self._arm()
        if not self._journal.healthy:
            raise AuditUnavailable

    async def close(self) -> None:
        """Write what is counted. Raises AuditUnavailable where it cannot be."""
        if self._task is not None:
            await self._task
        if self._timer is not None:
            self._timer.cancel()
        await self._write()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WINDOW_SECONDS, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._try())
        else:
            self._arm()

    async def _try(self) -> None:
        try:
            await self._write()
        except AuditUnavailable:
            self._arm()

    async def _write(self) -> None:
        details = self._flood.summary()
        if details is None:
            return
        try:
            await self._journal.append(self._records.event(RecordType.REFUSALS_SUMMARY, **details))
        except AuditUnavailable:
            self._flood.restore(details)
            raise
