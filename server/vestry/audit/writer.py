"""The thread that writes the log: takes what waits, commits it, and gets the log going again after a failure.

Rules: the `Mailbox` is all that the loop and the thread both touch. The thread never answers a caller: it
reports batches to the loop, in order, one wakeup each.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from msgspec import Struct

from vestry.audit.fields import RecordType
from vestry.audit.records import Clock, Event, Records, rfc3339
from vestry.audit.store import Committed, Store, WriteFailed
from vestry.faults import cause_of
from vestry.seams import Record
from vestry.types import Ending

_LOG = logging.getLogger("vestry.audit")
_BATCH_RECORDS = 1024
_JUMP_SECONDS = 2.0
_FIRST_PROBE_SECONDS = 0.05


class Waiter(Struct, frozen=True):
    """A record, who waits for it, and since when on the loop's clock."""

    record: Record
    future: asyncio.Future[None]
    since: float


class Abandoned(Struct, frozen=True):
    """A call whose intent may stand in the log, and whose outcome will not come."""

    request_id: str
    ending: Ending
    cause: str


class Reports(Protocol):
    """What the loop is told. `waiters` come in the order in which they were put into the mailbox."""

    def committed(self, waiters: list[Waiter], done: Committed, seconds: float) -> None:
        """These are durable. `done.unfit` counts places from the first waiter."""

    def failed(self, waiters: list[Waiter]) -> None:
        """These are not, and the log is broken."""

    def recovered(self, done: Committed, seconds: float) -> None:
        """The log is not broken any more."""


class Mailbox:
    """Where the loop leaves work. `put`, `wake` and `stop` belong to the loop, the rest to the thread."""

    def __init__(self) -> None:
        self.waiters: deque[Waiter] = deque()
        self.abandoned: deque[Abandoned] = deque()
        self.stopping = False
        self._signal = threading.Lock()
        self._signal.acquire()
        self._signalled = False

    def put(self, waiters: Iterable[Waiter]) -> None:
        self.waiters.extend(waiters)
        self.wake()

    def wake(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._signal.release()

    def stop(self) -> None:
        """Finish what is here, then end."""
        self.stopping = True
        self.wake()

    def sleep(self, seconds: float | None) -> None:
        """Until woken, or for so long. The mark is cleared before the thread takes anything, so nothing that was
        put while it was set is overlooked.
        """
        if self._signal.acquire(timeout=-1 if seconds is None else max(0.0, seconds)):
            self._signalled = False

    def take(self, most: int) -> list[Waiter]:
        waiters = self.waiters
        return [waiters.popleft() for _ in range(min(len(waiters), most))]

    def give_back(self, waiters: list[Waiter]) -> None:
        self.waiters.extendleft(reversed(waiters))


class _LoopGone(Exception):  # noqa: N818 - where the thread's work ends
    """Nobody is left to report to."""


class Writer:
    """Runs in a thread of its own, which `run` is the whole life of; it closes the store at its end."""

    loop: asyncio.AbstractEventLoop
    """Where reports go. To be set before `run`."""

    def __init__(self, mailbox: Mailbox, store: Store, reports: Reports, *, clock: Clock, probe_seconds: float) -> None:
        self._mailbox = mailbox
        self._store = store
        self._reports = reports
        self._clock = clock
        self._records = Records(clock=clock)
        self._probe_seconds = probe_seconds
        self._pause = _FIRST_PROBE_SECONDS
        self._next_probe = 0.0
        self._broke_at = 0.0
        self._cause = ""
        self._failures = self._lost = 0
        self._last_wall = clock.wall()
        self._last_monotonic = clock.monotonic()

    def run(self) -> None:
        mailbox, store = self._mailbox, self._store
        try:
            while not mailbox.stopping or mailbox.waiters:
                mailbox.sleep(self._next_probe - self._clock.monotonic() if store.broken else None)
                if store.broken:
                    self._turn_away()
                    if self._clock.monotonic() >= self._next_probe:
                        self._probe()
                while (mailbox.waiters or mailbox.abandoned) and not store.broken:
                    self._commit()
        except _LoopGone:
            _LOG.info("the event loop has ended, and the audit log's writer with it")
        finally:
            store.close()

    def _commit(self) -> None:
        waiters = self._mailbox.take(_BATCH_RECORDS)
        given_up, looked = self._abandoned(), (self._last_wall, self._last_monotonic)
        before = [*self._jump(), *self._closings(given_up)]
        if not before and not waiters:
            return
        began = self._clock.monotonic()
        try:
            done = self._store.commit([*before, *[waiter.record for waiter in waiters]])
        except Exception as error:  # noqa: BLE001 - the thread must go on whatever happens, and fail closed
            self._mailbox.abandoned.extend(given_up)
            self._last_wall, self._last_monotonic = looked
            self._broke(waiters, error)
            return
        taken = done.taken - len(before)
        if taken < len(waiters):
            self._mailbox.give_back(waiters[taken:])
            del waiters[taken:]
        if before and done.unfit:
            unfit = {place - len(before): error for place, error in done.unfit.items()}
            done = Committed(done.taken, done.leaves, done.size, unfit)
        self._tell(self._reports.committed, waiters, done, self._clock.monotonic() - began)

    def _broke(self, waiters: list[Waiter], error: Exception) -> None:
        if not isinstance(error, WriteFailed):
            self._store.fail(cause_of(error))
        _LOG.error("the audit log cannot be written, so nothing is served: %s", error)
        self._broke_at = self._clock.monotonic()
        self._cause = self._store.broken
        self._failures = 1
        self._lost = len(waiters)
        self._tell(self._reports.failed, waiters)
        self._pause = _FIRST_PROBE_SECONDS
        self._probe()
        if self._store.broken:
            self._turn_away()

    def _turn_away(self) -> None:
        """Nobody waits for a log that is broken."""
        if waiters := self._mailbox.take(len(self._mailbox.waiters)):
            self._lost += len(waiters)
            self._tell(self._reports.failed, waiters)

    def _probe(self) -> None:
        """Try to go on, with the record of the outage as the first one."""
        began = self._clock.monotonic()
        report = self._records.event(
            RecordType.LOG_RECOVERED,
            cause=self._cause,
            failures=self._failures,
            lost=self._lost,
            outage_us=round((began - self._broke_at) * 1_000_000),
            discarded_bytes=0,
        )
        try:
            done = self._store.recover(report)
        except Exception as error:  # noqa: BLE001 - as in _commit
            if not isinstance(error, WriteFailed):
                self._store.fail(cause_of(error))
            self._failures += 1
            self._next_probe = self._clock.monotonic() + self._pause
            self._pause = min(self._pause * 2, self._probe_seconds)
            return
        _LOG.warning("the audit log can be written again, after %d failed writes", self._failures)
        self._tell(self._reports.recovered, done, self._clock.monotonic() - began)

    def _jump(self) -> list[Event]:
        """A record, if the wall clock went back, or away from the monotonic one, since the last look."""
        wall, monotonic = self._clock.wall(), self._clock.monotonic()
        passed = round((monotonic - self._last_monotonic) * 1_000_000)
        last, jump = self._last_wall, wall - self._last_wall - passed
        self._last_wall, self._last_monotonic = wall, monotonic
        if wall >= last and abs(jump) <= _JUMP_SECONDS * 1_000_000:
            return []
        return [self._records.event(RecordType.CLOCK_JUMP, previous=rfc3339(last), jump_us=jump)]

    def _abandoned(self) -> list[Abandoned]:
        abandoned = self._mailbox.abandoned
        return [abandoned.popleft() for _ in range(min(len(abandoned), _BATCH_RECORDS))]

    def _closings(self, given_up: list[Abandoned]) -> list[Event]:
        """Closes of intents that nobody else will close."""
        return [
            self._records.event(
                RecordType.INTENT_CLOSED,
                request_id=each.request_id,
                intent_index=self._store.open_intents[each.request_id],
                ending=each.ending.value,
                cause=each.cause,
            )
            for each in given_up
            if each.request_id in self._store.open_intents
        ]

    def _tell(self, report: Callable[..., None], *arguments: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(report, *arguments)
        except RuntimeError as error:
            raise _LoopGone from error
