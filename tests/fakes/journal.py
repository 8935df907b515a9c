"""A journal in memory, with failure switches, for tests of whole calls.

It keeps the laws of `seams.Journal` (`tests/contract/test_journal.py` holds it to them). `records` is what would be
on the disk.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Any

import msgspec

from vestry.errors import AuditUnavailable
from vestry.seams import Record


class Fault(StrEnum):
    """What the journal does with the next records."""

    NONE = "none"
    FAIL = "fail"
    PERSIST = "persist"
    HANG = "hang"


class MemoryJournal:
    """seams.Journal. Faults last until `mend`."""

    def __init__(self, *, commit_seconds: float = 2.0) -> None:
        self.records: list[dict[str, Any]] = []
        self._commit_seconds = commit_seconds
        self._fault = Fault.NONE
        self._healthy = True
        self._hung: list[tuple[Record, asyncio.Future[None]]] = []

    def fail(self) -> None:
        """From here on nothing is written."""
        self._fault = Fault.FAIL

    def fail_but_persist(self) -> None:
        """From here on records are written, though their callers are told that they are not."""
        self._fault = Fault.PERSIST

    def hang(self) -> None:
        """From here on writes do not return."""
        self._fault = Fault.HANG

    def mend(self) -> None:
        """The fault has gone: hung writes return, and the journal is healthy again."""
        self._fault = Fault.NONE
        for record, future in self._hung:
            self._write(record)
            if not future.done():
                future.set_result(None)
        self._hung.clear()
        self._healthy = True

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of one type, in order."""
        return [record for record in self.records if record["type"] == kind]

    @property
    def hung(self) -> bool:
        """Whether a write hangs."""
        return bool(self._hung)

    @property
    def healthy(self) -> bool:
        return self._healthy

    def append(self, record: Record) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        if not self._healthy or self._fault in {Fault.FAIL, Fault.PERSIST}:
            if self._healthy and self._fault is Fault.PERSIST:
                self._write(record)
            self._healthy = False
            future.set_exception(AuditUnavailable())
        elif self._fault is Fault.HANG:
            self._hung.append((record, future))
            asyncio.get_running_loop().call_later(self._commit_seconds, self._overdue, future)
        else:
            self._write(record)
            asyncio.get_running_loop().call_soon(_succeed, future)
        return future

    def _write(self, record: Record) -> None:
        self.records.append({**msgspec.to_builtins(record), "index": len(self.records), "origin": "fake"})

    def _overdue(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            self._healthy = False
            future.set_exception(AuditUnavailable())


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
