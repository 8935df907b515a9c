"""The server's journal: calls wait on the loop, one thread writes, one fdatasync serves everything waiting.

Rules:
1. The loop's side only queues and resolves; the thread's side only writes. The queue is the one thing that both
   touch, and the loop learns of a batch through one `call_soon_threadsafe`.
2. Whoever waits is answered: with success after its batch is durable, else with AuditUnavailable, at the latest
   `commit_seconds` after it asked.
3. While the log is broken (a write failed) or overdue (a write hangs) new records are refused at once. The thread
   tries by itself, traffic or not, and the first success ends the state.
4. An intent whose caller was not told of its success has no outcome coming. The log closes it itself, so the
   caller of `append` appends no outcome for an intent whose append raised, cancellation included.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vestry.audit.canonical import said
from vestry.audit.fields import RecordType
from vestry.audit.files import Files
from vestry.audit.notary import Signing, Watcher
from vestry.audit.opening import Confirm, open_store
from vestry.audit.records import Clock
from vestry.audit.store import SIGNING_SECONDS, Committed, Store
from vestry.audit.writer import Abandoned, Mailbox, Waiter, Writer
from vestry.errors import AuditUnavailable
from vestry.seams import Record
from vestry.timer import Timer
from vestry.types import Ending

_LOG = logging.getLogger("vestry.audit")
_LOOK_SECONDS = 0.01
_HELD_SECONDS = 0.005
_HELD_RECORDS = 64


class Observer(Protocol):
    """Counts what the log does. Called on the loop."""

    def committed(self, seconds: float, records: int, size: int) -> None:
        """A batch is durable: the time its write and fdatasync took, its records, its bytes."""

    def failed(self, records: int) -> None:
        """Records that were refused or could not be made durable in time."""

    def health(self, healthy: bool) -> None:
        """The log's health has changed."""


class _Unobserved:
    def committed(self, seconds: float, records: int, size: int) -> None: ...

    def failed(self, records: int) -> None: ...

    def health(self, healthy: bool) -> None: ...


class AuditLog:
    """seams.Journal over a directory. All methods belong to one event loop, the one of the first `append`."""

    def __init__(
        self,
        store: Store,
        *,
        commit_seconds: float,
        observer: Observer | None = None,
        clock: Clock | None = None,
        capacity: int = 16_384,
        probe_seconds: float = 1.0,
    ) -> None:
        self._mailbox = Mailbox()
        self._store = store
        self._notary = store.notary
        self.origins = store.origins
        """All logs of this house."""
        self._writer = Writer(self._mailbox, store, self, clock=clock or Clock(), probe_seconds=probe_seconds)
        self._thread = threading.Thread(target=self._writer.run, name="vestry-audit", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gathered: list[Waiter] = []
        self._seen = 0
        self._took = 0.0
        self._waiting: deque[Waiter] = deque()
        self._timer: Timer | None = None
        self._commit_seconds = commit_seconds
        self._capacity = capacity
        self._observer: Observer = observer or _Unobserved()
        self._broken = self._overdue = self._closed = False
        self._healthy = True

    @classmethod
    def open(
        cls,
        directory: Path,
        origin: str,
        *,
        signing: Signing,
        commit_seconds: float,
        segment_bytes: int,
        observer: Observer | None = None,
        watchers: Sequence[Watcher] = (),
        confirm: Confirm | None = None,
        files: Files | None = None,
        clock: Clock | None = None,
        capacity: int = 16_384,
        probe_seconds: float = 1.0,
    ) -> AuditLog:
        """Open or begin the log of `origin` under `directory`. Blocks while it reads the last segment.

        Raises opening.LogUnusable (LogLocked, LogDamaged): a sentence for the operator.
        """
        store = open_store(
            directory,
            origin,
            signing=signing,
            segment_bytes=segment_bytes,
            confirm=confirm,
            files=files,
            clock=clock,
        )
        store.notary.watchers.extend(watchers)
        return cls(
            store,
            commit_seconds=commit_seconds,
            observer=observer,
            clock=clock,
            capacity=capacity,
            probe_seconds=probe_seconds,
        )

    @property
    def healthy(self) -> bool:
        """False from a failed or overdue write until a write has succeeded again, and after `close`."""
        return self._healthy

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._store.next_index

    def checkpoint(self) -> None:
        """Ask for a signed checkpoint now."""
        self._notary.ask()

    def append(self, record: Record) -> asyncio.Future[None]:
        """As seams.Journal.append. The record belongs to the log from here on: do not change it.

        The future fails with AuditUnavailable, or with canonical.NotCanonical for what is no record.
        """
        loop = self._loop or self._begin()
        future = loop.create_future()
        if not self._healthy or len(self._waiting) >= self._capacity:
            self._give_up(record, Ending.UNKNOWN, "outcome_lost")
            self._observer.failed(1)
            future.set_exception(AuditUnavailable())
            return future
        waiter = Waiter(record, future, loop.time())
        self._waiting.append(waiter)
        if not self._gathered:
            self._seen = 1
            loop.call_soon(self._gather)
        self._gathered.append(waiter)
        if self._timer is None:
            self._timer = Timer(loop, self._commit_seconds, self._look)
        return future

    def _gather(self) -> None:
        """Wait another turn of the loop, or hand over. A commit costs as much as the work on dozens of records, so they
        wait for each other as long as every turn brings more of them: a call by itself never does. A slow disk
        gathers enough by itself.
        """
        gathered, seen = self._gathered, self._seen
        self._seen = len(gathered)
        if seen < self._seen < _HELD_RECORDS:
            loop = self._loop or self._begin()
            if loop.time() - gathered[0].since < _HELD_SECONDS - self._took:
                loop.call_soon(self._gather)
                return
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the thread what has gathered, as one batch."""
        gathered, self._gathered = self._gathered, []
        self._mailbox.put(gathered)

    async def close(self) -> None:
        """Write what is waiting, as far as the deadline lets it, and let go of the log."""
        if self._closed:
            return
        self._closed = True
        self._set_health()
        loop = self._loop or self._begin()
        pending = [waiter.future for waiter in self._waiting if not waiter.future.done()]
        if pending:
            await asyncio.wait(pending, timeout=self._commit_seconds)
        self._hand_over()
        self._mailbox.stop()
        patience = self._commit_seconds + (0 if self._overdue else SIGNING_SECONDS)
        await loop.run_in_executor(None, self._thread.join, patience)
        if self._thread.is_alive():
            _LOG.error("a write to the audit log still hangs; the process goes on without it")
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> asyncio.AbstractEventLoop:
        """The first use: the loop is known now, and the thread can report to it."""
        self._loop = self._writer.loop = asyncio.get_running_loop()
        self._thread.start()
        self._notary.start()
        return self._loop

    def _set_health(self) -> None:
        healthy = not (self._broken or self._overdue or self._closed)
        if healthy != self._healthy:
            self._healthy = healthy
            self._observer.health(healthy)

    def _look(self) -> None:
        """The one timer: fails whoever has waited too long, and sleeps until the next one has."""
        loop = self._loop or self._begin()
        now = loop.time() + 0.001
        late = 0
        self._timer = None
        for waiter in self._waiting:
            deadline = waiter.since + self._commit_seconds
            if deadline > now:
                self._timer = Timer(loop, max(deadline - now, _LOOK_SECONDS), self._look)
                break
            if not waiter.future.done():
                waiter.future.set_exception(AuditUnavailable())
                late += 1
            self._overdue = True
        if late:
            self._observer.failed(late)
        self._set_health()

    # writer.Reports: what the thread says, in order. Called on the loop.

    def committed(self, waiters: list[Waiter], done: Committed, seconds: float) -> None:
        self._overdue = False
        self._took = seconds
        unfit = done.unfit
        for place, waiter in enumerate(waiters):
            self._waiting.popleft()
            if unfit and place in unfit:
                self._refuse(waiter, unfit[place])
            elif not waiter.future.done():
                waiter.future.set_result(None)
            elif waiter.future.cancelled():
                self._withdraw(waiter.record, Ending.CANCELLED, "caller_left")
            else:
                self._withdraw(waiter.record, Ending.REFUSED, "audit_unavailable")
        self._set_health()
        if done.leaves:
            self._observer.committed(seconds, len(done.leaves), done.size)

    def failed(self, waiters: list[Waiter]) -> None:
        self._overdue = False
        self._broken = True
        self._set_health()
        told = 0
        for waiter in waiters:
            self._waiting.popleft()
            told += waiter.future.done() and not waiter.future.cancelled()
            self._refuse(waiter, AuditUnavailable())
        if len(waiters) > told:
            self._observer.failed(len(waiters) - told)

    def recovered(self, done: Committed, seconds: float) -> None:
        self._broken = False
        self._set_health()
        self._observer.committed(seconds, len(done.leaves), done.size)

    def _refuse(self, waiter: Waiter, error: Exception) -> None:
        if not waiter.future.done():
            waiter.future.set_exception(error)
        self._give_up(waiter.record, Ending.UNKNOWN, "outcome_lost")

    def _give_up(self, record: Record, ending: Ending, cause: str) -> None:
        """An outcome that will not be in the log: its intent is closed as soon as the log can."""
        if said(record, "type") == RecordType.OUTCOME and len(self._mailbox.abandoned) < self._capacity:
            self._mailbox.abandoned.append(Abandoned(said(record, "request_id"), ending, cause))

    def _withdraw(self, record: Record, ending: Ending, cause: str) -> None:
        """An intent that is in the log, though its caller was told otherwise or has left."""
        if said(record, "type") == RecordType.INTENT:
            self._mailbox.abandoned.append(Abandoned(said(record, "request_id"), ending, cause))
            self._mailbox.wake()
