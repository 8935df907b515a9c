"""The reconciler: reads the engines' counters again and again, and holds them against what is recorded.

What it finds is counted (`meter`), logged once it grows, and recorded: at both ends of a server's life, every hour, and
whenever an engine has done what no record explains, or its counters can be read no more, or again. Where other servers
use the same engines, their work is not to be told from work behind everybody's back: then nothing is judged here, but
both sides are counted and recorded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from vestry.audit.canonical import SAFE_INTEGER
from vestry.audit.completeness import NOTHING, Account, Bounds, Ledger, Reading, Standing, Work
from vestry.audit.fields import RecordType
from vestry.audit.forms import RECONCILED_EACH
from vestry.audit.reading import NoLog
from vestry.audit.reconciling import past
from vestry.audit.records import Records, rfc3339
from vestry.audit.scan import LogUnusable
from vestry.errors import AuditUnavailable
from vestry.seams import Journal

log = logging.getLogger("vestry")
RECORD_SECONDS = 3600.0
LAST_LOOK_SECONDS = 2.0

AMOUNTS = ("engine", "least", "most", "unexplained", "uncounted")

Look = Callable[[], Awaitable[Reading]]


class _Book:
    """One replica: how it is read, its account, and where both stood when they were last recorded."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.account = Account()
        self.readable = self.said = False  # as it is, and as it was last recorded
        self.read = ""
        self.why = ""
        self.recorded = (NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
        self.restarts = 0

    def stand(self, bounds: Bounds) -> tuple[Work, Work, Work, Work, Work]:
        account = self.account
        return (account.reported, bounds.least, bounds.most, account.unexplained, account.uncounted)


class Reconciler:
    """One task. `run` until cancelled, then `stop`. All methods belong to one event loop.

    `unreadable` is what `looks` raise where an engine shows no counters; `home` is the directory of this server's log.
    """

    def __init__(
        self,
        ledger: Ledger,
        looks: Mapping[str, Look],
        journal: Journal,
        records: Records,
        *,
        home: Path,
        seconds: float,
        shared: bool,
        unreadable: type[Exception],
    ) -> None:
        self._ledger, self._journal, self._records = ledger, journal, records
        self._books = {replica: _Book(look) for replica, look in looks.items()}
        self._home, self._seconds, self._shared = home, seconds, shared
        self._unreadable = unreadable
        self._since = rfc3339(time.time_ns() // 1000)
        self._recorded_at = time.monotonic()

    def standing(self) -> list[Standing]:
        """What the metrics show."""
        found = []
        for replica, book in self._books.items():
            bounds, account = self._ledger.of(replica), book.account
            amounts = (account.seen, bounds.least, bounds.most, account.unexplained, account.uncounted)
            found.append(Standing(replica, book.readable, *amounts, account.restarts))
        return found

    async def run(self) -> None:
        """Until cancelled."""
        await self._remember()
        await self.look()
        await self._record("start")
        while True:
            await asyncio.sleep(self._seconds)
            await self.look()
            if cause := self._cause():
                await self._record(cause)

    async def stop(self) -> None:
        """The last look, and the record of it."""
        try:
            async with asyncio.timeout(LAST_LOOK_SECONDS):
                await self.look()
        except TimeoutError:
            log.warning("not every engine's counters could be read at the end")
        await self._record("stop")

    async def look(self) -> None:
        """Read every engine's counters once, all at the same time."""
        await asyncio.gather(*(self._read(replica, book) for replica, book in self._books.items()))

    async def _remember(self) -> None:
        """Go on from where an earlier life of this server stopped, so that nothing done meanwhile is overlooked."""
        try:
            found = await asyncio.to_thread(past, self._home)
        except (LogUnusable, NoLog, LookupError, ValueError, OSError) as error:
            log.warning("what was reconciled before cannot be read, so reconciliation begins anew: %s", error)
            return
        for replica, book in self._books.items():
            if replica in found:
                book.account.resume(found[replica].last, found[replica].recorded)

    async def _read(self, replica: str, book: _Book) -> None:
        try:
            reading = await book.look()
        except self._unreadable as error:
            if book.readable or (why := str(error)) != book.why:
                book.why = why = str(error)
                log.warning("the counters of the engine %s cannot be read: %s", replica, why)
            book.readable = False
            return
        book.readable, book.why = True, ""
        book.read = rfc3339(time.time_ns() // 1000)
        before = book.account.unexplained
        _, flying = self._ledger.flying(replica)
        book.account.read(reading, self._ledger.of(replica), flying, judged=not self._shared)
        new = book.account.unexplained.less(before)
        if any(new):
            log.error(
                "the engine %s has done work that no record explains: %d prompt tokens, %d completion tokens, %d "
                "requests. Somebody reaches it beside this server, or `audit.engines_shared` should be set",
                replica,
                *new,
            )

    def _cause(self) -> str:
        """Why both sides are to be recorded now; empty where they are not."""
        books = self._books.values()
        if any(book.account.unexplained != book.recorded[3] for book in books):
            return "difference"
        if any(book.readable != book.said for book in books):
            return "counters"
        return "interval" if time.monotonic() - self._recorded_at >= RECORD_SECONDS else ""

    async def _record(self, cause: str) -> None:
        """Both totals of each replica since the last such record, and the difference."""
        stands = {replica: book.stand(self._ledger.of(replica)) for replica, book in self._books.items()}
        others = {replica: (book.account.restarts, book.readable) for replica, book in self._books.items()}
        now = rfc3339(time.time_ns() // 1000)
        rows = [_row(replica, book, stands[replica]) for replica, book in self._books.items()]
        in_progress = self._ledger.in_progress
        try:
            for at in range(0, len(rows), RECONCILED_EACH):
                await self._journal.append(
                    self._records.event(
                        RecordType.LOG_RECONCILED,
                        cause=cause,
                        since=self._since,
                        in_progress=in_progress,
                        replicas=rows[at : at + RECONCILED_EACH],
                    )
                )
        except AuditUnavailable:
            return  # nothing is forgotten: the next record covers this time too
        for replica, book in self._books.items():
            book.recorded, (book.restarts, book.said) = stands[replica], others[replica]
        self._since, self._recorded_at = now, time.monotonic()


def _row(replica: str, book: _Book, now: tuple[Work, ...]) -> dict[str, Any]:
    """One replica as the record has it."""
    row: dict[str, Any] = {
        "replica": replica,
        "readable": book.readable,
        **{name: _told(each.less(before)) for name, each, before in zip(AMOUNTS, now, book.recorded, strict=True)},
        "restarts": book.account.restarts - book.restarts,
    }
    last = book.account.last
    if last is not None and book.read:
        row |= {"counters": list(last.work), "read": book.read}
        if last.started:
            row["started"] = rfc3339(last.started)
    return row


def _told(work: Work) -> list[int]:
    """An amount as the record has it: counters that lie may add up to more than one can hold."""
    return [max(-SAFE_INTEGER, min(each, SAFE_INTEGER)) for each in work]
