"""Logs made on the spot, with as many records as a test needs."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from fakes.audit import ORIGIN, SIGNING, HandClock
from fakes.calls import GRANT, PRINCIPAL, call, head
from vestry.audit.fields import RecordType
from vestry.audit.notary import Signing
from vestry.audit.opening import open_store
from vestry.audit.pruning import Plan, Policy, plan, prune
from vestry.audit.reading import LogReader
from vestry.audit.records import Event, Records
from vestry.audit.store import Store
from vestry.seams import Record
from vestry.types import Ending, Outcome, Usage

TENANTS = ("radiology", "surgery", "records")


class LogMaker:
    """A log that is open for writing, without a server. Use as a context manager; the end signs a checkpoint."""

    def __init__(self, directory: Path, origin: str = "server", *, signing: Signing = SIGNING, **options: Any) -> None:
        self.store: Store = open_store(
            directory, origin, signing=signing, segment_bytes=options.pop("segment_bytes", 1 << 20), **options
        )
        self.home = directory / origin
        self.records = Records()
        self.calls = 0

    def __enter__(self) -> LogMaker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.close()

    def add(self, *records: Record) -> None:
        """Append these."""
        left = list(records)
        while left:
            del left[: self.store.commit(left).taken]

    def add_calls(self, number: int) -> None:
        """Append calls: number n is of user n % 50, tenant n % 3; every tenth fails, and its id is `req-n`."""
        batch: list[Record] = []
        for _ in range(number):
            n = self.calls
            self.calls += 1
            principal = replace(PRINCIPAL, subject=f"user{n % 50}", tenant=TENANTS[n % 3], key_id=f"key{n % 50}")
            grant = replace(GRANT, principal=principal)
            asked = head(f"req-{n}")
            ending, status = (Ending.FAILED, 502) if n % 10 == 9 else (Ending.COMPLETE, 200)
            done = Outcome(ending, status, code="engine_failed" if status == 502 else "", usage=Usage(12, 5))
            batch += [
                self.records.intent(asked, principal, call(), grant),
                self.records.outcome(asked, principal, call(), grant, done),
            ]
        self.add(*batch)

    def checkpoint(self) -> None:
        """Sign what is there."""
        self.store.notary.ask()
        self.store.notary.work()


DAY = 86_400
THIRTY_DAYS = Policy(30)


class DayLog:
    """A log that lives for days in a moment. Use as pruning.Ledger too."""

    def __init__(
        self, directory: Path, clock: HandClock | None = None, *, origin: str = ORIGIN, signing: Signing = SIGNING
    ) -> None:
        self.directory, self.home, self.clock = directory, directory / origin, clock or HandClock()
        self._origin, self._signing = origin, signing
        self.store = self.open()

    def copied(self, directory: Path) -> DayLog:
        """A log of its own from here on, with a past that is the same."""
        shutil.copytree(self.directory, directory)
        return DayLog(directory, copy.copy(self.clock), origin=self._origin, signing=self._signing)

    def open(self) -> Store:
        self.store = open_store(
            self.directory, self._origin, signing=self._signing, segment_bytes=1 << 30, clock=self.clock.clock
        )
        return self.store

    def day(self, *subjects: str, records: int = 300) -> None:
        """A day's records, by these subjects in turn, and its checkpoint."""
        made = Records(clock=self.clock.clock)
        given = [
            made.event(
                RecordType.KEY_REVOKE,
                tenant="default",
                subject=(subjects or ("alice",))[number % len(subjects or ("alice",))],
                key_id="k",
                actor="x",
            )
            for number in range(records)
        ]
        while given:
            del given[: self.store.commit(given).taken]
        self.sign()
        self.clock.both(DAY)

    def record(self, event: Event) -> None:
        self.store.commit([event])

    def sign(self) -> None:
        self.store.notary.ask()
        self.store.notary.work()

    def plan(self, policy: Policy = THIRTY_DAYS) -> Plan:
        return plan(self.home, policy, clock=self.clock.clock)

    def prune(self, policy: Policy = THIRTY_DAYS, **more: Any) -> Plan:
        return prune(self.home, policy, self, clock=self.clock.clock, signing_seconds=2, **more)

    def leaves(self) -> list[dict[str, Any]]:
        return [json.loads(leaf) for _, leaf in LogReader(self.home).leaves()]
