"""Sends the records of one log on as they are written, in a thread of its own; the log on the disk is the spool.

Rules:
1. Only durable records are sent: what the journal says is durable (`grown`), or what a checkpoint covers.
2. In order, and at least once: the cursor moves when the receiver is known to have a record. After a failure, a
   restart or a crash everything behind the cursor is sent again.
3. A receiver that is down costs the server nothing but this thread's tries, with growing pauses.
4. Nothing is left out. A record that the receiver will not have stops the export, which its lag shows. Only records
   that were pruned before they were sent are passed over, and that is said.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vestry.audit.export.cursor import Cursor
from vestry.audit.finding.walk import Walker
from vestry.audit.reading import NoLog
from vestry.audit.records import microseconds_of
from vestry.audit.scan import LogDamaged, LogUnusable, parse

_LOG = logging.getLogger("vestry.audit")
BATCH_BYTES = 1 << 20
LOOK_SECONDS = 1.0
GATHER_SECONDS = 0.2
"""How long a wakened worker waits for more: a busy server is not disturbed more often than this."""
CONFIRM_SECONDS = 30.0
CONFIRM_RECORDS = 20_000
STORE_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 60.0
LONGEST_WAIT = 3600.0
SLICE = 16


class Sender(Protocol):
    """A way to a receiver. Methods but `abort` and `close` raise OSError where it does not work."""

    wait: float
    """After `send`: so many seconds the receiver asks to be left alone."""

    def send(self, payload: bytes) -> bool:
        """Send; True if all that was sent is known to have arrived."""

    def confirm(self) -> None:
        """Returns once all that was sent is known to have arrived."""

    def abort(self) -> None:
        """Called from another thread: let what waits fail."""

    def close(self) -> None:
        """Let go of the connection. What was not confirmed counts as lost."""


class Observer(Protocol):
    """Counts what exports do. Called in their threads."""

    def exported(self, export: str, records: int) -> None:
        """Records have been sent."""

    def export_failed(self, export: str, records: int) -> None:
        """Records could not be sent, or were not confirmed; they will be sent again."""


Pack = Callable[[list[bytes]], bytes]
"""From records to what is sent for them. Raises LogDamaged."""


class Worker:
    """One export of one log. `grown`, `start`, `stop` and `lag` are for other threads."""

    def __init__(
        self, name: str, home: Path, sender: Sender, pack: Pack, observer: Observer, *, batch_records: int = 500
    ) -> None:
        self.name, self.home = name, home
        self._sender, self._pack, self._observer = sender, pack, observer
        self._most = self._batch_records = batch_records
        self._cursor = Cursor(home, name)
        self._grown = self._signed = 0  # the first is the event loop's to write, the second the thread's
        self._wake = threading.Event()
        self._idle = False
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"vestry-export-{name}", daemon=True)
        self._at = self._confirmed = 0
        self._last = self._confirmed_last = b""
        self._unconfirmed_since = self._stored_at = 0.0
        self._oldest: int | None = None
        self._pause = FIRST_PAUSE
        self._failing = False
        self._said = ""

    def grown(self, size: int) -> None:
        """So many records are durable in the log. Cheap, and never blocks."""
        self._grown = size
        if self._idle:
            self._idle = False
            self._wake.set()

    def start(self) -> None:
        self._thread.start()

    def halt(self, seconds: float) -> None:
        """Begin to end: send what is there, for so long at most. Does not block."""
        self._stop_at = time.monotonic() + seconds
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """End as `halt` says, where it has not been said yet, and wait for it. Blocks."""
        if self._stop_at is None:
            self.halt(seconds)
        until = self._stop_at or 0.0
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._sender.abort()
            self._thread.join(1.0)

    def lag(self) -> tuple[int, float]:
        """Records that wait to be sent, and how many seconds old the first is that is not known to have arrived.

        While tries fail, none is sent that is not known to have arrived: a receiver may take each connection, and then
        reset it.
        """
        waiting = max(0, self._durable - (self._confirmed if self._failing else self._at))
        oldest = self._oldest
        return waiting, 0.0 if oldest is None else max(0.0, time.time() - oldest / 1_000_000)

    @property
    def _durable(self) -> int:
        return max(self._grown, self._signed)

    @property
    def _stopping(self) -> bool:
        return self._stop_at is not None

    def _out_of_time(self) -> bool:
        return self._stop_at is not None and time.monotonic() >= self._stop_at

    # The thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        walker: Walker | None = None
        while not self._out_of_time():
            try:
                if walker is None:
                    walker = self._begin()
                sent = walker is not None and self._once(walker)
            except (OSError, LogUnusable, NoLog, ValueError) as error:
                self._failed(error)
                if self._stopping:
                    break
                continue
            if not sent:
                if self._stopping:
                    break
                self._rest()
        self._end()

    def _begin(self) -> Walker | None:
        """Where to go on; None where there is no log yet, as of `cli` before its first command."""
        try:
            walker = Walker(self.home)
        except NoLog:
            return None
        self._at = self._confirmed = self._cursor.load(walker)
        return walker

    def _once(self, walker: Walker) -> bool:
        """Send one batch; False if there was nothing to send."""
        self._signed = walker.signed()
        if (first := walker.first()) > self._at:
            _LOG.warning(
                "the export %s lost records %d to %d: they were pruned, or are missing", self.name, self._at, first - 1
            )
            self._at = self._confirmed = first
            self._oldest = None
        if self._at >= self._durable:
            self._settle(now=self._stopping)
            return False
        leaves = self._batch(walker)
        try:
            arrived = self._sender.send(self._pack(leaves))
        except OSError:
            self._batch_records = max(1, len(leaves) // 2)  # perhaps it is too much at once
            raise
        self._batch_records = min(self._most, self._batch_records + 10)
        self._at += len(leaves)
        self._last = leaves[-1]
        self._observer.exported(self.name, len(leaves))
        self._unconfirmed_since = self._unconfirmed_since or time.monotonic()
        if arrived:
            self._arrived()
        self._settle()
        return True

    def _batch(self, walker: Walker) -> list[bytes]:
        leaves: list[bytes] = []
        size = 0
        for index, leaf in walker.records(self._at, min(self._durable, self._at + self._batch_records)):
            leaves.append(leaf)
            size += len(leaf)
            if index % SLICE == 0:
                time.sleep(0)  # the event loop's thread first
            if size >= BATCH_BYTES:
                break
        if not leaves:  # perhaps put back before the next try
            raise LogDamaged(f"{self.home} is damaged: record {self._at} was acknowledged, and is missing.")
        if self._at == self._confirmed:
            record = parse(leaves[0] + b"\n")
            self._oldest = None if record is None else microseconds_of(record.time)
        return leaves

    def _settle(self, *, now: bool = False) -> None:
        """Have what was sent confirmed, and write down how far it got, where it is time."""
        if self._confirmed < self._at:
            old = time.monotonic() - self._unconfirmed_since >= CONFIRM_SECONDS
            if now or old or self._at - self._confirmed >= CONFIRM_RECORDS:
                self._sender.confirm()
                self._arrived()
        if now or time.monotonic() - self._stored_at >= STORE_SECONDS:
            self._store()

    def _arrived(self) -> None:
        self._confirmed, self._confirmed_last, self._unconfirmed_since = self._at, self._last, 0.0
        self._oldest = None
        self._pause = FIRST_PAUSE
        if self._failing:
            self._failing, self._said = False, ""
            _LOG.warning("the export %s works again", self.name)

    def _store(self) -> None:
        if self._confirmed_last:
            self._cursor.store(self._confirmed, self._confirmed_last)
            self._stored_at = time.monotonic()

    def _failed(self, error: Exception) -> None:
        """Go back to what is known to have arrived, and wait, longer each time. Says why once, until that changes."""
        if (why := str(error)) != self._said:
            _LOG.error("the export %s does not work, and is tried again: %s", self.name, why)
        self._failing, self._said = True, why
        self._sender.close()
        lost = self._at - self._confirmed
        self._observer.export_failed(self.name, max(1, lost))
        self._at, self._last, self._unconfirmed_since = self._confirmed, self._confirmed_last, 0.0
        pause = self._pause * random.uniform(0.75, 1.25)  # noqa: S311 - spreads tries, no secret
        until = time.monotonic() + max(pause, min(self._sender.wait, LONGEST_WAIT))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._wake.wait(min(left, LOOK_SECONDS))
            self._wake.clear()

    def _rest(self) -> None:
        self._idle = True
        self._wake.wait(LOOK_SECONDS)
        self._wake.clear()
        self._idle = False
        if not self._stopping:
            time.sleep(GATHER_SECONDS)

    def _end(self) -> None:
        try:
            self._settle(now=True)
        except (OSError, LogUnusable) as error:
            _LOG.warning("the export %s will send some records again: %s", self.name, error)
        self._sender.close()
