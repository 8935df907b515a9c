"""The record step: what of a call becomes durable, and when.

The intent before an engine is called; the outcome before the last byte leaves; a refusal is one record. Refusals that
come in floods are summed up, so that a stranger cannot fill the disk (see `audit.flood`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable

from vestry import __version__
from vestry.audit.calls import Content
from vestry.audit.completeness import Ledger
from vestry.audit.fields import RecordType
from vestry.audit.flood import RefusalLog
from vestry.audit.forms import ORIGINS
from vestry.audit.records import Records
from vestry.errors import AuditUnavailable, Refusal
from vestry.seams import Journal
from vestry.types import Call, Grant, Head, Operation, Outcome, Principal

log = logging.getLogger("vestry")


class Recorder:
    """Writes what happened, through the journal. Fails closed: methods raise AuditUnavailable where it does."""

    def __init__(self, journal: Journal, records: Records, ledger: Ledger | None = None) -> None:
        self._journal = journal
        self._ledger = ledger or Ledger()
        self._records = records
        self._refusals = RefusalLog(journal, records)
        self._at_the_door: set[asyncio.Task[None]] = set()

    async def started(self, origins: list[str]) -> None:
        """The server has started: the first record of its life. It names all logs there are, so that one cannot go."""
        await self._journal.append(
            self._records.event(RecordType.SERVER_START, version=__version__, origins=origins[:ORIGINS])
        )

    async def stopped(self) -> None:
        """The server stops. What cannot be recorded any more is said in the process's own log."""
        try:
            if self._at_the_door:
                await asyncio.wait(self._at_the_door)
            await self._refusals.close()
            await self._journal.append(self._records.event(RecordType.SERVER_STOP, version=__version__))
        except AuditUnavailable:
            log.error("the server's stop could not be recorded")  # noqa: TRY400 - the record's own log has the cause

    def intent(
        self, head: Head, principal: Principal, call: Call, grant: Grant, content: Content | None = None
    ) -> Awaitable[None]:
        """What is about to be asked of an engine, and why it may be. Durable when this has been waited for."""
        self._ledger.began(head.request_id, call, grant)
        return self._journal.append(self._records.intent(head, principal, call, grant, content))

    def outcome(  # noqa: PLR0917 - called for every call, and keywords cost
        self,
        head: Head,
        principal: Principal,
        call: Call | None,
        grant: Grant | None,
        outcome: Outcome,
        content: Content | None = None,
    ) -> Awaitable[None]:
        """How it went. Durable when this has been waited for."""
        record = self._records.outcome(head, principal, call, grant, outcome, content)
        self._ledger.ended(record)
        return self._journal.append(record)

    async def refusal(self, head: Head, principal: Principal | None, call: Call | None, refusal: Refusal) -> None:
        """A refusal: durable when this returns, as a record of its own or as one of a sum."""
        self._ledger.refused(head.request_id)
        await self._refusals.append(self._records.refusal(head, principal, call, refusal))

    def at_the_door(self, refusal: Refusal, request_id: str, source: str) -> None:
        """A request that never became a call. It has its answer already; the record follows."""
        head = Head(
            request_id=request_id,
            route="none",
            operation=Operation.NONE,
            method="",
            source=source,
            user_agent="",
            client_request_id="",
            traceparent="",
            credential=None,
            began=time.monotonic(),
            began_wall=time.time_ns() // 1000,
        )
        task = asyncio.get_running_loop().create_task(self._try_refusal(head, refusal))
        self._at_the_door.add(task)
        task.add_done_callback(self._at_the_door.discard)

    async def _try_refusal(self, head: Head, refusal: Refusal) -> None:
        try:
            await self.refusal(head, None, None, refusal)
        except AuditUnavailable:
            log.warning("a refusal at the door could not be recorded")
